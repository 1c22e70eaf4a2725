"""`electra` against Hugging Face's ElectraForMaskedLM and ElectraForPreTraining: the same weights, masks and draws."""

import pytest
import torch

from anymask.contract.data import SMALL, batch_of, example_schema
from anymask.recipe import find

transformers = pytest.importorskip("transformers")


def embeddings(theirs, ours, norm):
    """The shared tables, and the normalisation that each network has of its own."""
    theirs.word_embeddings.weight.copy_(ours.stem.embed["text"].weight)
    theirs.position_embeddings.weight[1 : 1 + len(ours.stem.positions.table)].copy_(ours.stem.positions.table)
    theirs.token_type_embeddings.weight.zero_()
    theirs.LayerNorm.load_state_dict(norm.state_dict())


def blocks(theirs, ours):
    for layer, block in zip(theirs.layer, ours, strict=True):
        for part, weight, bias in zip(
            (layer.attention.self.query, layer.attention.self.key, layer.attention.self.value),
            block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3), strict=True,
        ):  # fmt: skip
            part.weight.copy_(weight)
            part.bias.copy_(bias)
        for part, own in (
            (layer.attention.output.dense, block.attn.proj), (layer.attention.output.LayerNorm, block.norm1),
            (layer.intermediate.dense, block.mlp.fc1), (layer.output.dense, block.mlp.fc2),
            (layer.output.LayerNorm, block.norm2),
        ):  # fmt: skip
            part.load_state_dict(own.state_dict())


@torch.no_grad()
def test_electra(record):
    torch.manual_seed(0)
    schema = example_schema("text")
    model = find("electra").but({"corruption.share": 0.5}).build(schema, SMALL).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    step = model(batch_of(schema, 6))
    pieces = -model.tokenizer.streams["text"]
    generator, width = model.corruption, model.size.width
    common = dict(
        vocab_size=pieces, embedding_size=width, max_position_embeddings=model.tokenizer.longest + 1,
        num_hidden_layers=model.size.depth, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-12,
    )  # fmt: skip
    small = generator.project.weight.shape[0]
    heads = generator.blocks[0].attn.heads
    masked = transformers.ElectraForMaskedLM(transformers.ElectraConfig(
        hidden_size=small, num_attention_heads=heads, intermediate_size=4 * small, **common
    )).eval()  # fmt: skip
    embeddings(masked.electra.embeddings, model, generator.norm)
    masked.electra.embeddings_project.load_state_dict(generator.project.state_dict())
    blocks(masked.electra.encoder, generator.blocks)
    masked.generator_predictions.dense.load_state_dict(generator.dense.state_dict())
    masked.generator_predictions.LayerNorm.load_state_dict(generator.last.state_dict())
    masked.generator_lm_head.weight.copy_(model.stem.embed["text"].weight)
    masked.generator_lm_head.bias.copy_(generator.bias)
    real, there = step.tokens.x["text"], step.tokens.valid
    hidden = ~step.mask.visible & there
    # Our generator has no CLS token, so theirs gets none; places count from 1, where the encoder's CLS has place 0.
    given = dict(attention_mask=there.long(), position_ids=torch.arange(1, real.shape[1] + 1)[None])
    found = masked(
        input_ids=torch.where(step.mask.visible, real, model.tokenizer.mask_id),
        labels=torch.where(hidden, real, -100), **given,
    )  # fmt: skip
    loss = (found.loss - step.aux["generator"]).abs().item()
    logits = (found.logits - generator.scores(step, model))[there].abs().max().item()

    judge = transformers.ElectraForPreTraining(transformers.ElectraConfig(
        hidden_size=width, num_attention_heads=model.size.heads, intermediate_size=4 * width, **common
    )).eval()  # fmt: skip
    embeddings(judge.electra.embeddings, model, model.encoder.norm)
    blocks(judge.electra.encoder, model.encoder.blocks)
    judge.discriminator_predictions.dense.load_state_dict(model.decoder.dense.state_dict())
    judge.discriminator_predictions.dense_prediction.load_state_dict(
        model.decoder.heads.heads["replaced"].state_dict()
    )
    # The CLS token of ours is a vector of its own: it enters theirs as an embedding, without place or type.
    words = judge.electra.embeddings.word_embeddings(step.seen.content["text"])
    inputs = torch.cat([model.encoder.prefix.expand(len(words), -1, -1), words], 1)
    judge.electra.embeddings.position_embeddings.weight[0].zero_()
    replaced = step.seen.content["text"] != real
    there = torch.nn.functional.pad(there, (1, 0), value=True)
    answer = judge(inputs_embeds=inputs, attention_mask=there.long())
    scores = answer.logits[:, 1:]
    judged = (scores - step.pred["replaced"][..., 0])[step.tokens.valid].abs().max().item()
    each = torch.nn.functional.binary_cross_entropy_with_logits(scores, replaced.float(), reduction="none")
    total = step.aux["generator"] + 50 * each[step.tokens.valid].mean()
    whole = (total - step.loss).abs().item() / step.loss.item()
    assert hidden.sum() > 3 and replaced[hidden].any() and not replaced[~hidden].any()
    assert max(loss, logits, judged, whole) < 1e-5
    record(
        "electra", "transformers ElectraForMaskedLM, ElectraForPreTraining",
        {"generator's logits": logits, "generator's loss": loss, "discriminator's logits": judged, "loss": whole},
    )  # fmt: skip
