from anymask.cli import main

main()
