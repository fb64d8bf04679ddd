// Plans and runs one merge of small models in this thread: the planner, the engine and the WebAssembly kernels as they
// are, only the worker threads left out.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { MEMORY_BYTES_DEFAULT } from "../../core/plan/defaults.ts";
import { documentNames } from "../../core/plan/documents.ts";
import type { MergeModel, MergeOptions } from "../../core/plan/merge-task.ts";
import type { MergePlan } from "../../core/plan/plan-merge.ts";
import { planRecipe } from "../../core/plan/plan-recipe.ts";
import type { MergeUnit, PlanSource } from "../../core/plan/schema.ts";
import { listSources, normaliseRecipe } from "../../core/recipe/normalise.ts";
import { measuredTensors, measureTensors } from "../../engine/measure-tensors.ts";
import { mergeRegion, type RegionDeps, type RegionTask } from "../../engine/merge-region.ts";
import type { ResolvedSource } from "../../engine/request.ts";
import { runRounds } from "../../engine/run-rounds.ts";
import { createWasmKernels } from "../../kernels/wasm/host.ts";
import { openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { readDocuments } from "../../steps/read-documents.ts";
import { readRecipe } from "../../steps/read-recipe.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import type { OpenStore } from "../../stores/store.ts";
import type { Tensor } from "./tensors.ts";

/** Small, so that windows end within tensors of the cases. */
const WINDOW_ELEMENTS = 8192;

export type MergedTensors = ReadonlyMap<string, Tensor>;
export type MergeOutcome = {
  readonly tensors: MergedTensors;
  /** Of the documents that the output uses, by name. */
  readonly intermediate: ReadonlyMap<string, MergedTensors>;
  readonly config: Record<string, unknown> | undefined;
  /** Text of the file beside the weights, where the plan writes or copies one of that name. */
  sideText(name: string): string | undefined;
};

/**
 * Runs a recipe (YAML or JSON text) whose model paths are relative to `folder`; of all tensors, or of those in `only`.
 */
export async function runMerge(
  folder: string,
  text: string,
  only?: readonly string[],
  options: MergeOptions = {},
): Promise<MergeOutcome> {
  const recipe = normaliseRecipe(readRecipe(Buffer.from(text), "recipe.yaml"));
  const names = documentNames(recipe);
  const models = await Promise.all(listSources(recipe).map((model) => openModel(folder, model, names)));
  const task = { name: "golden", recipe, text, models: models.map((model) => restrict(model, only)) };
  const { documents, output } = planRecipe(task, options);
  const target = createMemoryStore("golden");
  const openStore: OpenStore = (uri) =>
    uri.startsWith("memory:") ? target : createDirectoryStore(uri, { durable: false });
  const sources: ResolvedSource[] = models.map(({ source }) => ({ ...source, digests: undefined }));
  const made = new Map<string | undefined, MergedTensors>();
  const { signal } = new AbortController();
  for (const { name, plan } of documents) {
    const prefix = `${made.size}/`;
    const tensors = new Map<string, Tensor>();
    const deps = { kernels: createWasmKernels(MEMORY_BYTES_DEFAULT), openStore, signal, progress: () => {} };
    const state = await runRounds(plan, (unit, { round }, known) => {
      const task = { index: 0, round, tensors: measuredTensors(unit), rules: rulesOf(unit), sources };
      return measureTensors({ ...task, state: known, windowElements: WINDOW_ELEMENTS }, deps);
    });
    for (const unit of plan.units) {
      const merged = await runUnit(unit, prefix, { sources, state }, deps);
      for (const [tensor, value] of merged) tensors.set(tensor, value);
    }
    made.set(name, tensors);
    sources.push({ model: name ?? "", store: target.uri, prefix, digests: undefined });
  }
  const sideText = (name: string) => textOf(output, models, name);
  const config = sideText("config.json");
  return {
    tensors: made.get(undefined) ?? new Map(),
    intermediate: new Map(
      [...made].flatMap(([name, tensors]) => (name === undefined ? [] : [[name, tensors] as const])),
    ),
    config: config === undefined ? undefined : JSON.parse(config),
    sideText,
  };
}

async function openModel(folder: string, model: string, names: readonly string[]): Promise<MergeModel> {
  const path = join(folder, model);
  const isFile = path.endsWith(".safetensors");
  const store = createDirectoryStore(isFile ? join(path, "..") : path, { durable: false });
  const opened = isFile
    ? await openCheckpointFile(store, path.slice(path.lastIndexOf("/") + 1))
    : await openCheckpoint(store, "");
  const source: PlanSource = {
    model,
    store: isFile ? join(path, "..") : path,
    prefix: "",
    format: opened.checkpoint.format,
    fingerprint: opened.fingerprint,
    state: "foreign",
  };
  const { signal } = new AbortController();
  const documents = await readDocuments({ store, prefix: "" }, opened.checkpoint, names, signal);
  return { source, checkpoint: opened.checkpoint, documents };
}

/** Method cases list a few tensors of a model; the others are left out before planning. */
function restrict(model: MergeModel, only: readonly string[] | undefined): MergeModel {
  if (only === undefined) return model;
  const tensors = model.checkpoint.tensors.filter(({ name }) => only.includes(name));
  return { ...model, checkpoint: { ...model.checkpoint, tensors } };
}

function rulesOf({ nonFinite, strict }: MergeUnit): RegionTask["rules"] {
  return { nonFinite, strict };
}

/** Merges a unit into a file of the memory store and reads it back. */
async function runUnit(
  unit: MergeUnit,
  prefix: string,
  known: Pick<RegionTask, "sources" | "state">,
  deps: RegionDeps,
): Promise<MergedTensors> {
  const store = deps.openStore("memory://golden");
  const key = `${prefix}${unit.file}`;
  const { header } = encodeSafetensorsHeader(unit.tensors, new Map([["format", "pt"]]));
  const region = { offset: 0, bytes: unit.fileBytes, firstTensor: 0, endTensor: unit.tensors.length, derived: [] };
  const ticket = await store.beginWrite(key, unit.fileBytes, [{ offset: 0, bytes: unit.fileBytes }]);
  const task = {
    index: 0,
    region,
    ticket,
    prologue: header,
    tensors: unit.tensors,
    derived: [],
    rules: rulesOf(unit),
    ...known,
    targetStore: "memory://golden",
    windowElements: WINDOW_ELEMENTS,
    keptBytes: 0,
    statistics: false,
    digestInputs: false,
  };
  const { receipt } = await mergeRegion(task, deps);
  await store.finishWrite(ticket, [receipt]);
  const data = new Uint8Array(unit.fileBytes - header.length);
  await store.readInto(key, header.length, data);
  return new Map(
    unit.tensors.map(({ name, dtype, shape, offset, bytes }) => [
      name,
      { dtype, shape, bytes: data.slice(offset, offset + bytes) },
    ]),
  );
}

function textOf({ sideFiles }: MergePlan, models: readonly MergeModel[], name: string): string | undefined {
  const file = sideFiles.find((entry) => entry.name === name);
  if (file?.from !== "source") return file?.text;
  const source = models[file.source]?.source;
  return source === undefined ? undefined : readFileSync(join(source.store, source.prefix, file.file), "utf8");
}
