// Every kind of checkpoint into every format. Goal: what one table says of a pair is what happens: the weights come
// back from each target bit for bit, with states where both sides keep them, or the pair is refused by its code. The
// same kinds dropped into a yard are merged and published.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { parseUniversal } from "../../core/artifact/universal.ts";
import { CONVERSION_TARGETS } from "../../steps/convert/convert.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { listKeys } from "../../steps/records.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { convertInto, exampleCompressed, exampleGguf, exampleModel, goldenStore } from "./folders.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, runPipeline } from "./pipeline.ts";

const GOLDEN = join(import.meta.dirname, "../golden");
const TRAINED = "deepspeed/z2_tp1_pp1_dp3_fp32_padding";

/** The files below a folder of a store, but for some, in a store of their own. */
async function partOf(from: ObjectStore, below: string, without = /^$/): Promise<ObjectStore> {
  const store = newStore();
  for (const name of await listKeys(from, "")) {
    if (name.startsWith(below) && !without.test(name)) {
      await store.create(name.slice(below.length), await readAll(from, name, 1e8));
    }
  }
  return store;
}

async function fileStore(file: string, name: string): Promise<ObjectStore> {
  const store = newStore();
  await store.create(name, readFileSync(join(GOLDEN, file)));
  return store;
}

type Kind = { readonly title: string; readonly isTrained: boolean; make(): Promise<ObjectStore> };

const trained = async () => goldenStore(TRAINED);
const KINDS: readonly Kind[] = [
  { title: "DeepSpeed, ZeRO 2", isTrained: true, make: trained },
  { title: "DeepSpeed, ZeRO 3, tp 2", isTrained: true, make: () => goldenStore("deepspeed/z3_tp2_pp1_dp2_bf16") },
  {
    title: "DeepSpeed's universal folder",
    isTrained: true,
    make: async () => partOf(await trained(), "global_step3_universal/"),
  },
  { title: "universal", isTrained: true, make: async () => (await convertInto(await trained(), "universal")).target },
  { title: "DCP with states", isTrained: true, make: async () => (await convertInto(await trained(), "dcp")).target },
  { title: "DCP of weights", isTrained: false, make: () => goldenStore("dcp/sharded") },
  { title: "sharded safetensors", isTrained: false, make: () => goldenStore("dcp/hf_sharded") },
  {
    title: "Megatron's torch_dist",
    isTrained: true,
    make: async () => partOf(await goldenStore("megatron"), "", /^expected|\.py$/),
  },
  {
    title: "torch, zip",
    isTrained: false,
    make: () => fileStore("torch/valid/tied_state_dict.bin", "pytorch_model.bin"),
  },
  {
    title: "torch, legacy",
    isTrained: false,
    make: () => fileStore("torch/valid/views_legacy.pt", "pytorch_model.bin"),
  },
  { title: "safetensors", isTrained: false, make: exampleModel },
  { title: "GGUF", isTrained: false, make: () => exampleGguf("q8_0") },
  { title: "compressed tensors", isTrained: false, make: () => exampleCompressed("int8_channel") },
];

/** Weights by name, and the digest of all with their states. */
async function contentsOf(source: ObjectStore) {
  const { target, output } = await convertInto(source, "universal");
  const { parameters } = parseUniversal(await readAll(target, "universal.json", 1e7));
  return { weights: new Map(parameters.map(({ name, digest }) => [name, digest])), contents: output.contents };
}

const KEEPS_STATES = new Set(["universal", "dcp", "deepspeed", "deepspeed-universal"]);
const NEEDS_STATES = new Set(["deepspeed", "deepspeed-universal"]);

suite("every kind into every format", () => {
  for (const { title, isTrained, make } of KINDS) {
    test(title, async () => {
      const source = await make();
      const own = await contentsOf(source);
      assert.ok(own.weights.size > 0);
      for (const to of CONVERSION_TARGETS) {
        if (!isTrained && NEEDS_STATES.has(to)) {
          await assert.rejects(convertInto(source, to), { code: "ConvertStatesMissing" }, to);
          continue;
        }
        const back = await contentsOf((await convertInto(source, to)).target);
        assert.deepEqual(new Map([...back.weights].sort()), new Map([...own.weights].sort()), to);
        if (KEEPS_STATES.has(to)) assert.equal(back.contents, own.contents, to);
      }
    });
  }
});

suite("every kind dropped into a yard", () => {
  for (const { title, make } of KINDS) {
    test(`is merged and published: ${title}`, async () => {
      const [source, yard] = [await make(), newStore()];
      await makeYard(yard);
      for (const name of await listKeys(source, "")) {
        await yard.create(`incoming/m/1/${name}`, await readAll(source, name, 1e8));
      }
      await yard.create("incoming/m/1/_COMPLETE", new Uint8Array(0));
      const recipe = [
        "name: m",
        "models: { m: incoming/m }",
        "merge: { merge_method: passthrough, models: [{ model: m }] }",
        "publish: { model: m, channel: nightly }",
      ];
      await putText(yard, "pipelines/m.yaml", recipe.join("\n"));
      const openStore = openerOf(yard);
      const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore, () => {}) });
      const { result } = await runPipeline(yard, deps, "pipelines/m.yaml");
      assert.equal(result?.outcome, "published");
      const { checkpoint } = await openCheckpoint(yard, `artifacts/m/${result.version}/`);
      const { weights } = await contentsOf(source);
      assert.deepEqual(
        new Map(checkpoint.tensors.map(({ name, digest }): [string, unknown] => [name, digest]).sort()),
        new Map([...weights].sort()),
      );
    });
  }
});
