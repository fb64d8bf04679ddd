// Training checkpoints of torch's own trainers. Goal: the order and the hyper-parameters of the optimizer's groups come
// through, so that DeepSpeed's loader, which copies flat buffers as they are, and torch's, which asks for every entry,
// go on from what is written.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { parseUniversal, type Universal } from "../../core/artifact/universal.ts";
import type { FolderReader } from "../../core/checkpoint.ts";
import { readDcp } from "../../core/formats/dcp/dcp.ts";
import { readModelState } from "../../core/formats/deepspeed/model.ts";
import { listKeys } from "../../steps/records.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore } from "./deps.ts";
import { convertInto, goldenStore } from "./folders.ts";
import { putTraining } from "./training-model.ts";

const GOLDEN = "dcp-training";
const GROUPS = [
  ["tokens.weight", "up.weight", "down.weight"],
  ["up.bias", "norm.weight", "norm.bias"],
];

async function universalOf(store: ObjectStore): Promise<Universal> {
  return parseUniversal(await readAll(store, "universal.json", 1e6));
}

/** Names of the trained parameters as the optimizer's groups have them. */
function groupsIn({ parameters }: Universal): readonly (readonly string[])[] {
  const placed = parameters.flatMap(({ name, states }) => (states === undefined ? [] : [{ name, ...states }]));
  const ordered = placed.sort((a, b) => (a.position ?? 0) - (b.position ?? 0));
  return [0, 1].map((group) => ordered.filter((each) => each.group === group).map(({ name }) => name));
}

/** Digests of one kind of tensors by name, as an independent program wrote them. */
async function expected(kind: string): Promise<ReadonlyMap<string, string>> {
  const store = newStore();
  const file = join(import.meta.dirname, "../golden", GOLDEN, `expected_${kind}.safetensors`);
  await store.create("model.safetensors", readFileSync(file));
  const { parameters } = await universalOf((await convertInto(store, "universal")).target);
  return new Map(parameters.map(({ name, digest }) => [name, digest]));
}

async function folderOf(store: ObjectStore): Promise<FolderReader> {
  const files = await Promise.all(
    (await listKeys(store, "")).map(async (name) => ({ name, bytes: (await store.head(name))?.bytes ?? 0 })),
  );
  return {
    files,
    read: async (name, offset, bytes) => (await readAll(store, name, 1e8)).subarray(offset, offset + bytes),
  };
}

async function modelState(store: ObjectStore, name: string) {
  return readModelState(await folderOf(store), { name, bytes: (await store.head(name))?.bytes ?? 0 });
}

suite("a distributed checkpoint of a trainer", () => {
  for (const form of ["nested", "top"]) {
    test(`gives parameters, states and the optimizer's groups: ${form}`, async () => {
      const { target, output } = await convertInto(await goldenStore(`${GOLDEN}/${form}`), "universal");
      const universal = await universalOf(target);
      assert.deepEqual(groupsIn(universal), GROUPS);
      const { groups = [], weights } = universal.training ?? {};
      assert.deepEqual(
        groups.map(({ lr, betas, weight_decay: decay }) => [lr, betas, decay]),
        [
          [0.01, [0.9, 0.999], 0.1],
          [0.01, [0.9, 0.95], 0],
        ],
      );
      assert.deepEqual([weights, output.warnings], ["F32", []]);
      const digests = universal.parameters.map(({ name, digest }) => [name, digest] as const);
      assert.deepEqual(new Map([...digests].sort()), new Map([...(await expected("fp32"))].sort()));
      for (const state of ["exp_avg", "exp_avg_sq"] as const) {
        const moments = universal.parameters.flatMap(({ name, states }) => {
          return states?.[state] === undefined ? [] : [[name, states[state].digest] as const];
        });
        assert.deepEqual(new Map(moments.sort()), new Map([...(await expected(state))].sort()));
      }
    });
  }

  test("comes back from a distributed checkpoint with its groups, in both forms that trainers ask for", async () => {
    const source = await goldenStore(`${GOLDEN}/nested`);
    const { target: universal, output } = await convertInto(source, "universal");
    const { target } = await convertInto(universal, "dcp");
    const { target: again, output: back } = await convertInto(target, "universal");
    assert.deepEqual([back.contents, back.warnings], [output.contents, []]);
    const { objects } = await readDcp(await folderOf(target), "");
    const stored = new Map(objects.map(({ name, place }) => [name, place]));
    assert.deepEqual(stored.get("optim.param_groups.1.betas"), stored.get("optim.param_groups.norm.bias.betas"));
    assert.ok(stored.has("optim.param_groups.0.params"));
    assert.deepEqual(groupsIn(await universalOf(again)), GROUPS);
    assert.deepEqual((await universalOf(again)).training, (await universalOf(universal)).training);
  });

  for (const zero of [1, 3] as const) {
    test(`becomes files of DeepSpeed in the optimizer's order, weights apart from buffers: ZeRO ${zero}`, async () => {
      const source = await goldenStore(`${GOLDEN}/nested`);
      const { target, output } = await convertInto(source, "deepspeed", { topology: { tp: 1, pp: 1, dp: 2, zero } });
      assert.deepEqual(output.warnings, []);
      const names = (await listKeys(target, "")).filter((name) => name.includes("model_states"));
      const state = await modelState(target, names[0] ?? "");
      assert.deepEqual(
        state.groups.map((group) => group.map(({ name }) => name)),
        GROUPS,
      );
      assert.equal(state.client.global_steps, 3);
      assert.deepEqual(
        state.frozenShapes.map(({ name }) => name),
        ["frozen.weight", "head.weight"],
      );
      assert.deepEqual(state.module?.get("head.weight")?.shape, zero === 3 ? [0] : [7, 4]);
    });
  }
});

test("is cut for tensor-parallel ranks by the patterns that the user gives", async () => {
  const shapes = {
    "embed.weight": [6, 4],
    "layers.0.up.weight": [8, 4],
    "layers.0.down.weight": [4, 8],
    "norm.weight": [4],
  };
  const model = Object.entries(shapes).map(([name, shape]) => ({ name, shape, pattern: { kind: "unique" as const } }));
  const { target: source } = await convertInto(await putTraining(model), "dcp");
  const topology = { tp: 2, pp: 1, dp: 1, zero: 1 as const };
  await assert.rejects(convertInto(source, "deepspeed", { topology }), { code: "UniversalPatternsMissing" });
  const patterns = {
    tp_replicated_parameter_patterns: ["norm\\."],
    parameter_with_row_parallelism_patterns: [".*\\.down\\."],
  };
  const { target: universal, output } = await convertInto(source, "universal", { patterns });
  const kinds = (await universalOf(universal)).parameters.map(({ pattern }) => Object.values(pattern).sort().join(" "));
  assert.deepEqual(kinds, ["0 fragment", "1 fragment", "0 fragment", "replicated"]);
  const { target: ranks } = await convertInto(universal, "deepspeed", { topology });
  assert.equal((await convertInto(ranks, "universal")).output.contents, output.contents);
});

test("files of DeepSpeed whose order nothing says are written with a warning", async () => {
  const source = await putTraining([{ name: "w", shape: [4], pattern: { kind: "unique" } }]);
  const { output } = await convertInto(source, "deepspeed");
  assert.match(output.warnings.join(), /^OptimizerGroupsUnknown: [^()]* by names$/);
  assert.deepEqual((await convertInto(source, "deepspeed-universal")).output.warnings, []);
});
