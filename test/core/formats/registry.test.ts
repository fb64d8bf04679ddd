// Which format opens what, and the refusals of everything that none opens.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { gguf } from "../../../core/formats/gguf/checkpoint.ts";
import { FORMATS, recogniseFile, recogniseFormat } from "../../../core/formats/registry.ts";
import { safetensors } from "../../../core/formats/safetensors/folder.ts";
import { torch } from "../../../core/formats/torch/torch.ts";

const named = (names: readonly string[]) => names.map((name) => ({ name, bytes: 100 }));

suite("the registry of formats", () => {
  test("has every format once", () => {
    const ids = FORMATS.map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length);
  });

  test("opens a folder by the most specific format that recognises it", () => {
    assert.equal(recogniseFormat(named(["model.safetensors", "config.json"])).id, "safetensors");
    assert.equal(recogniseFormat(named(["model.safetensors.index.json"])).id, "safetensors");
    assert.equal(recogniseFormat(named(["model.safetensors", "universal.json"])).id, "universal");
    assert.equal(recogniseFormat(named(["model.safetensors", "pytorch_model.bin", "latest"])).id, "safetensors");
    assert.equal(recogniseFormat(named(["pytorch_model.bin", "config.json"])).id, "torch");
    assert.equal(recogniseFormat(named(["consolidated.00.pth"])).id, "torch");
    const step = ["latest", "step5/mp_rank_00_model_states.pt", "step5/zero_pp_rank_0_mp_rank_00_optim_states.pt"];
    assert.equal(recogniseFormat(named(step)).id, "deepspeed");
    assert.equal(recogniseFormat(named([...step, "model.safetensors"])).id, "safetensors");
    assert.equal(recogniseFormat(named(["mp_rank_00_model_states.pt"])).id, "deepspeed");
    assert.equal(recogniseFormat(named(["layer_01-model_00-model_states.pt"])).id, "deepspeed");
    assert.equal(recogniseFormat(named(["latest_universal", "u/zero/a/fp32.pt"])).id, "deepspeed_universal");
    assert.equal(recogniseFormat(named(["model-q4_k_m.gguf"])).id, "gguf");
    assert.equal(recogniseFormat(named(["model.safetensors", "model-q4_k_m.gguf"])).id, "safetensors");
    assert.equal(recogniseFormat(named([".metadata", "__0_0.distcp"])).id, "dcp");
    assert.equal(recogniseFormat(named(["shard-00001-model-00001-of-00001.safetensors"])).id, "dcp");
  });

  test("opens a file by its extension", () => {
    assert.equal(recogniseFile({ name: "x.safetensors", bytes: 1 }), safetensors.file);
    assert.equal(recogniseFile({ name: "x.pt", bytes: 1 }), torch.file);
    assert.equal(recogniseFile({ name: "x.gguf", bytes: 1 }), gguf.file);
  });

  test("refuses kinds that it knows but cannot read by their title", () => {
    const kinds: readonly (readonly [readonly string[], string])[] = [
      [
        ["latest_checkpointed_iteration.txt", "iter_0000100/common.pt"],
        "Megatron-LM checkpoint of one file for each rank",
      ],
      [["checkpoint/_METADATA", "checkpoint/manifest.ocdbt"], "orbax checkpoint"],
      [["model_index.json", "unet/config.json"], "diffusers pipeline"],
      [
        ["sharded/shard-00001-model-00001-of-00001.safetensors"],
        "distributed checkpoint of safetensors whose consolidation was not finished",
      ],
      [
        ["optimizer_0/.metadata", "pytorch_model_fsdp_0/.metadata", "scheduler.bin"],
        "folder with a distributed checkpoint of torch inside",
      ],
      [["tf_model.h5"], "checkpoint of another framework"],
    ];
    for (const [names, title] of kinds) {
      assert.throws(() => recogniseFormat(named(names)), { code: "CheckpointFormatUnsupported", found: title }, title);
    }
    assert.throws(() => recogniseFile({ name: "x.h5", bytes: 1 }), { code: "CheckpointFormatUnsupported" });
  });

  test("refuses what it does not know, naming some of it", () => {
    const names = ["1.txt", "2.txt", "3.txt", "4.txt", "5.txt", "6.txt"];
    assert.throws(() => recogniseFormat(named(names)), {
      code: "CheckpointFormatUnknown",
      found: "1.txt, 2.txt, 3.txt, 4.txt, 5.txt and 1 more",
    });
    assert.throws(() => recogniseFile({ name: "notes.txt", bytes: 1 }), { code: "CheckpointFormatUnknown" });
    assert.throws(() => recogniseFormat([]), { code: "CheckpointEmpty" });
  });
});
