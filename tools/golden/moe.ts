// Golden cases of mixture-of-experts models: the experts of a file as a Switch model, merged by the step that users
// run. Source of the form: merge reference, sections 11 and 15.
import * as z from "zod";
import { encodeSafetensorsFile } from "../../core/formats/safetensors/safetensors.ts";
import { similarityOf } from "../../core/moe/grouping.ts";
import { mergeExpertsStep } from "../../steps/models/merge-experts.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { runStep } from "../../steps/step.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { failed, skipped, type Verdict } from "./case.ts";
import { compareAll, listTensors, readFileTensors } from "./compare.ts";
import { readTensor, type Tensor, valuesOf } from "./tensors.ts";

const common = { id: z.string(), input: z.string(), expected: z.string(), tolerance: z.unknown() };
const moeCase = z.discriminatedUnion("method", [
  z.object({
    ...common,
    method: z.literal("m_smoe"),
    parameters: z.object({ num_groups: z.int(), align: z.boolean() }),
    expected_group_labels: z.array(z.int()),
    expected_core_experts: z.array(z.int()),
  }),
  z.object({
    ...common,
    method: z.literal("expert_alignment"),
    parameters: z.object({ reference: z.literal(0), include_wo: z.literal(true) }),
  }),
  z.object({
    ...common,
    method: z.literal("mc_smoe_low_rank"),
    parameters: z.object({ tensor: z.string(), parameter_ratio: z.number() }),
  }),
]);
type MoeCase = z.output<typeof moeCase>;

const PREFIX = "encoder.block.0.layer.1.mlp";
/** Names of the file's experts in a Switch model, and back. */
const toModel = (name: string) => name.replace(/^expert(\d+)\.(\w+)$/, `${PREFIX}.experts.expert_$1.$2.weight`);
const fromModel = (name: string) => name.replace(/^.*expert_(\d+)\.(\w+)\.weight$/, "expert$1.$2");

/** A case of kind moe. */
export async function runMoe(folder: string, content: { readonly kind: string }): Promise<Verdict> {
  const parsed = moeCase.safeParse(content);
  if (!parsed.success) return skipped("this merge of experts");
  const entry = parsed.data;
  const input = await readFileTensors(folder, entry.input);
  const store = createMemoryStore(entry.id);
  const experts = [...input].filter(([name]) => name.startsWith("expert"));
  const statistics = ["router_logits", "usage_frequency"].flatMap((name) => {
    const tensor = input.get(name);
    return tensor === undefined ? [] : [[`${PREFIX}.${name}`, tensor] as const];
  });
  await writeTensors(store, "statistics.safetensors", statistics);
  const [model, target] = [createMemoryStore(`${entry.id}-model`), createMemoryStore(`${entry.id}-out`)];
  await writeTensors(
    model,
    "model.safetensors",
    experts.map(([name, tensor]) => [toModel(name), tensor] as const),
  );
  const stores = [store, model, target];
  const places = { model: model.uri, target: target.uri };
  const { layers } = await runStep(
    mergeExpertsStep,
    { ...places, statistics: { store: store.uri, key: "statistics.safetensors" }, ...optionsOf(entry) },
    {
      openStore: (uri) => stores.find((own) => own.uri === uri) ?? target,
      now: () => 0,
      log: () => {},
      signal: new AbortController().signal,
    },
  );
  const { checkpoint } = await openCheckpoint(target, "");
  const merged = new Map(
    await Promise.all(
      checkpoint.tensors.map(async (own) => [fromModel(own.name), await readTensor(target, own)] as const),
    ),
  );
  const [layer] = layers;
  if (entry.method === "m_smoe") {
    if (layer?.labels.join() !== entry.expected_group_labels.join()) return failed(`groups are ${layer?.labels}`);
    if (layer.cores.join() !== entry.expected_core_experts.join()) return failed(`cores are ${layer.cores}`);
  }
  const got = RESULTS[entry.method](entry, input, merged);
  const names = await listTensors(folder, entry.expected);
  // Its last bit is that of the reference's order of float32 sums, which the width of its vectors decides.
  const likeness = names.filter((name) => name === "similarity");
  const others = names.filter((name) => name !== "similarity");
  const verdict = await compareAll(folder, got, others, entry.expected, entry.tolerance);
  if (verdict.status !== "passed") return verdict;
  return compareAll(folder, got, likeness, entry.expected, { mode: "close", rtol: FLOAT32_STEP, atol: 0 });
}

/** Distance of float32 numbers, relative. */
const FLOAT32_STEP = 2 ** -23;

function optionsOf(entry: MoeCase) {
  if (entry.method === "m_smoe") {
    return { groups: entry.parameters.num_groups, align: entry.parameters.align ? "group" : "none" };
  }
  if (entry.method === "expert_alignment") return { align: "layer" };
  return { align: "none", compress: { rankRatio: entry.parameters.parameter_ratio, residualRatio: 0 } };
}

type Tensors = ReadonlyMap<string, Tensor>;

/** What the expected file has, from the model that was made. */
const RESULTS: Readonly<Record<MoeCase["method"], (entry: MoeCase, input: Tensors, merged: Tensors) => Tensors>> = {
  m_smoe: (_, __, merged) => merged,
  expert_alignment(_, input, merged) {
    const experts = [...merged.keys()].filter((name) => name.endsWith(".wi") && name !== "expert0.wi");
    const perms = experts.map(
      (name) => [name.replace(/^expert(\d+)\.wi$/, "perm$1"), movesOf(input, merged, name)] as const,
    );
    const logits = valuesOf(input.get("router_logits") ?? { dtype: "F32", shape: [0], bytes: new Uint8Array() });
    const [tokens = 0, count = 0] = input.get("router_logits")?.shape ?? [];
    const values = Float64Array.from({ length: logits.length }, (__, at) => {
      return logits[(at % tokens) * count + Math.floor(at / tokens)] ?? 0;
    });
    const similarity = Float32Array.from(similarityOf({ rows: count, columns: tokens, values }).values);
    const own: Tensor = { dtype: "F32", shape: [count, count], bytes: new Uint8Array(similarity.buffer) };
    return new Map([...perms, ["similarity", own] as const]);
  },
  mc_smoe_low_rank(entry, input, merged) {
    const name = entry.method === "mc_smoe_low_rank" ? entry.parameters.tensor : "";
    const [low, whole] = [merged.get(name), input.get(name)];
    if (low === undefined || whole === undefined) return new Map();
    const part = valuesOf(low);
    const residual = valuesOf(whole).map((value, i) => value - (part[i] ?? 0));
    return new Map([
      ["low", low],
      ["residual", { ...low, bytes: new Uint8Array(residual.buffer) }],
    ]);
  },
};

/** Where each row of the aligned matrix comes from. */
function movesOf(input: Tensors, merged: Tensors, name: string): Tensor {
  const [before, after] = [input.get(name), merged.get(name)].map((tensor) => {
    const [rows = 0] = tensor?.shape ?? [];
    const bytes = (tensor?.bytes.length ?? 0) / Math.max(1, rows);
    return Array.from({ length: rows }, (_, row) =>
      Buffer.from(tensor?.bytes ?? [])
        .subarray(row * bytes, (row + 1) * bytes)
        .toString("hex"),
    );
  });
  const moves = BigInt64Array.from(after ?? [], (row) => BigInt(before?.indexOf(row) ?? -1));
  return { dtype: "I64", shape: [moves.length], bytes: new Uint8Array(moves.buffer) };
}

async function writeTensors(
  store: ObjectStore,
  key: string,
  tensors: readonly (readonly [string, Tensor])[],
): Promise<void> {
  const byName = new Map(tensors);
  const specs = tensors.map(([name, { shape }]) => ({ name, dtype: "F32" as const, shape }));
  await writeBytes(
    store,
    key,
    encodeSafetensorsFile(specs, ({ name }) => byName.get(name)?.bytes),
  );
}
