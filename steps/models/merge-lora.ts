// Combining LoRA adapters into one adapter, module by module, in a folder as PEFT saves it. The result is in memory
// until it is written: it is as small as an adapter.
import assert from "node:assert/strict";
import * as z from "zod";
import { COMBINATIONS, type Combination, combineFactors, type WeightedFactors } from "../../core/adapter/combine.ts";
import { groupAdapter, type ModuleFactors, type WholeTensor as WholePart } from "../../core/adapter/modules.ts";
import { type AdapterConfig, readAdapterConfig } from "../../core/adapter/peft.ts";
import { wholeName } from "../../core/adapter/write-peft.ts";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { type ErrorPlace, MergeyardError } from "../../core/error.ts";
import { TOKENIZER_LIMITS } from "../../core/limits.ts";
import { isFloatDtype } from "../../core/ops/cast.ts";
import { ADAPTER_CONFIG_FILE } from "../../core/plan/documents.ts";
import { streamKey } from "../../core/random.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import { findJson } from "../../stores/objects.ts";
import { openCheckpoint } from "../open-checkpoint.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { factorTensors, writeAdapter } from "./adapter-folder.ts";
import { writeFolderManifest } from "./folder-manifest.ts";
import { type ReadableModel, readMatrix, readTensorBytes, type WholeTensor } from "./whole-tensors.ts";

const share = z.number().min(0).max(1);

export const mergeLoraStep = defineStep({
  name: "merge-lora",
  input: z.strictObject({
    /** URIs of the adapters' folders, and the weight of each. */
    adapters: z.array(z.strictObject({ source: uri, weight: z.number() })).min(1),
    target: uri,
    combination: z.enum([...COMBINATIONS.keys()]),
    density: z.number().nonnegative().default(1),
    majority: z.enum(["total", "frequency"]).default("total"),
    rank: z.int().positive().optional(),
    clamp: share.optional(),
    seed: count.default(0),
    /** PEFT's own arithmetic where it is at odds with itself: see `CombineOptions`. */
    strict: z.boolean().default(false),
  }),
  output: z.strictObject({
    target: z.string(),
    /** Short digest of the folder's manifest. */
    version: z.string(),
    modules: count,
    whole: count,
    rank: count,
    bytes: count,
  }),
  /**
   * Throws PlanAdapterInvalid, PlanAdapterNotSupported, PlanAdaptersDiffer, PlanDtypeNotMergeable, EngineNonFinite,
   * YardSourceChanged, the codes of opening a checkpoint, and what the stores throw.
   */
  async run(input, deps) {
    const adapters = await Promise.all(input.adapters.map(({ source }) => openAdapter(source, deps)));
    const [first] = adapters;
    assert.ok(first !== undefined, "the schema asks for an adapter");
    checkStorage(adapters);
    const target = deps.openStore(input.target);
    const tensors: WholeTensor[] = [];
    const ranks = new Map<string, number>();
    for (const [key, parts] of groupModules(adapters)) {
      const combined = await combineModule(key, parts, input, deps);
      tensors.push(...combined.tensors);
      ranks.set(combined.module, combined.rank);
    }
    const whole = adapters.flatMap((adapter) => adapter.whole.map((part) => ({ adapter, part })));
    checkWhole(whole);
    for (const { adapter, part } of whole) tensors.push(copyWhole(adapter, part, deps));
    const written = {
      base: first.document.base_model_name_or_path ?? null,
      taskType: first.document.task_type ?? null,
      storesInputFirst: first.config.storesInputFirst,
      ranks,
      whole: whole.map(({ part }) => part.name.replace(/\.[^.]+$/, "")),
      hasBias: false,
    };
    const bytes = await writeAdapter(target, tensors, written, deps.signal);
    const { adapters: weighed, target: _target, ...options } = input;
    const settings = { ...options, weights: weighed.map(({ weight }) => weight) };
    const version = await writeFolderManifest(target, { step: "merge-lora", settings, inputs: adapters }, deps.signal);
    const rank = Math.max(0, ...ranks.values());
    return { target: target.uri, version, modules: ranks.size, whole: whole.length, rank, bytes };
  },
});

/** What of a config is taken over; `readAdapterConfig` checks the rest. */
const documentSchema = z.looseObject({
  base_model_name_or_path: z.string().nullish(),
  task_type: z.string().nullish(),
});

type Adapter = ReadableModel & {
  readonly source: string;
  readonly document: z.output<typeof documentSchema>;
  readonly config: AdapterConfig;
  readonly modules: readonly ModuleFactors[];
  readonly whole: readonly WholePart[];
};

async function openAdapter(source: string, { openStore, signal }: StepDeps): Promise<Adapter> {
  const store = openStore(source);
  const opened = await openCheckpoint(store, "", signal);
  const where = { store: store.uri, file: ADAPTER_CONFIG_FILE };
  const found = await findJson(store, ADAPTER_CONFIG_FILE, documentSchema, TOKENIZER_LIMITS.bytes, { signal });
  if (found === undefined) throw new MergeyardError("PlanAdapterInvalid", { where, found: "no such file" });
  const config = readAdapterConfig(found.value, where);
  if (config.targetsParameters) {
    const [field, expected] = ["target_parameters", "factors of modules only"];
    const said = "an adapter on parameters instead of modules";
    throw new MergeyardError("PlanAdapterNotSupported", { where: { ...where, field }, found: said, expected });
  }
  // PEFT saves an embedding that has factors beside them, as the model has it: no part of what the adapter changes.
  const own = opened.checkpoint.tensors.filter(({ name }) => !/\.base_layer\.[^.]+$/.test(name));
  const { modules, whole } = groupAdapter(own, { store: store.uri });
  const bias = modules.find(({ kind }) => kind === "bias");
  if (bias !== undefined) {
    const expected = "factors of weights only";
    throw new MergeyardError("PlanAdapterNotSupported", { where: bias.where, found: "an update of a bias", expected });
  }
  return { source, store, prefix: "", opened, document: found.value, config, modules, whole };
}

function checkStorage(adapters: readonly Adapter[]): void {
  const [first] = adapters;
  const other = adapters.find(({ config }) => config.storesInputFirst !== first?.config.storesInputFirst);
  if (other === undefined) return;
  const where = { store: other.store.uri, file: ADAPTER_CONFIG_FILE, field: "fan_in_fan_out" };
  const found = String(other.config.storesInputFirst);
  throw new MergeyardError("PlanAdaptersDiffer", { where, found, expected: "the same of all adapters" });
}

/** A module's factors in one adapter, and that adapter's place among all. */
type Part = { readonly adapter: Adapter; readonly index: number; readonly factors: ModuleFactors };

/** Parts by kind and module, in the order of first mention. */
function groupModules(adapters: readonly Adapter[]): ReadonlyMap<string, readonly Part[]> {
  const parts = adapters.flatMap((adapter, index) => adapter.modules.map((factors) => ({ adapter, index, factors })));
  return Map.groupBy(parts, ({ factors }) => `${factors.kind} ${factors.module}`);
}

async function combineModule(
  key: string,
  parts: readonly Part[],
  input: z.output<typeof mergeLoraStep.input>,
  deps: StepDeps,
): Promise<{ readonly module: string; readonly rank: number; readonly tensors: readonly WholeTensor[] }> {
  const factors = await Promise.all(parts.map((part) => readFactors(part, input, deps)));
  // One adapter alone is scaled, whatever is asked for. Source: PEFT, add_weighted_adapter.
  const how = combinationOf(input.adapters.length === 1 ? "linear" : input.combination);
  checkShapes(how, parts, factors);
  const combined = combineFactors(how, factors, { ...input, rank: input.rank, clamp: input.clamp });
  const [first] = parts;
  assert.ok(first !== undefined, `a module of no adapter: ${key}`);
  const { module, kind, a: own } = first.factors;
  const dtype = own !== undefined && isFloatDtype(own.dtype) ? own.dtype : "F32";
  const named = { module, isEmbedding: kind === "embedding", dtype, shape: own?.shape ?? [] };
  return { module, rank: combined.a.rows, tensors: factorTensors(named, combined) };
}

function combinationOf(id: string): Combination {
  const how = COMBINATIONS.get(id);
  assert.ok(how !== undefined, "the schema lets only known combinations through");
  return how;
}

async function readFactors(
  { adapter, index, factors }: Part,
  input: z.output<typeof mergeLoraStep.input>,
  { signal }: StepDeps,
): Promise<WeightedFactors> {
  const { a: left, b: right, module, where } = factors;
  if (left === undefined || right === undefined) {
    throw new MergeyardError("PlanAdapterInvalid", { where, found: "one factor", expected: "lora_A and lora_B" });
  }
  const [a, b] = [await readMatrix(adapter, left, signal), await readMatrix(adapter, right, signal)];
  const { expectedRank, scale } = adapter.config.scaleOf(module, a.rows);
  if (a.rows !== expectedRank || b.columns !== a.rows) {
    const found = `ranks ${a.rows} and ${b.columns}`;
    throw new MergeyardError("PlanAdapterInvalid", { where, found, expected: `rank ${expectedRank}` });
  }
  // The adapter by its place in the list: where it lies must not decide the mask.
  const key = (tensor: TensorEntry) => streamKey(input.seed, tensor.name, String(index));
  return { a, b, scale, weight: input.adapters[index]?.weight ?? 1, keys: [key(left), key(right)] };
}

function checkShapes(how: Combination, parts: readonly Part[], factors: readonly WeightedFactors[]): void {
  const [first] = factors;
  factors.forEach((own, index) => {
    const where: ErrorPlace = parts[index]?.factors.where ?? {};
    const refuse = (found: string, expected: string) => {
      throw new MergeyardError("PlanAdaptersDiffer", { where, found, expected });
    };
    const shape = ({ a, b }: WeightedFactors) => `an update of [${b.rows}, ${a.columns}]`;
    if (first !== undefined && shape(own) !== shape(first)) refuse(shape(own), shape(first));
    if (how.on === "factors" && own.a.rows !== first?.a.rows) refuse(`rank ${own.a.rows}`, `rank ${first?.a.rows}`);
  });
}

type OwnedPart = { readonly adapter: Adapter; readonly part: WholePart };

/** PEFT has no way to combine what adapters hold whole. */
function checkWhole(parts: readonly OwnedPart[]): void {
  const names = new Set<string>();
  for (const { adapter, part } of parts) {
    if (names.has(part.name)) {
      const where = { store: adapter.store.uri, tensor: part.entry.name };
      throw new MergeyardError("PlanAdaptersDiffer", {
        where,
        found: "a tensor that two adapters hold whole",
        expected: "one adapter at most that holds it",
      });
    }
    names.add(part.name);
  }
}

function copyWhole(adapter: Adapter, { name, entry }: WholePart, { signal }: StepDeps): WholeTensor {
  const bytes = () => readTensorBytes(adapter, entry, signal);
  return { name: wholeName(name), dtype: entry.dtype, shape: entry.shape, bytes };
}
