// Extracting a LoRA adapter: the change from a base to a fine-tuned model as low-rank factors, in a folder as PEFT
// saves it. Tensors go one by one; the adapter itself is in memory until it is written.
import * as z from "zod";
import { extractFactors, extractKind } from "../../core/adapter/extract.ts";
import { newerName } from "../../core/adapter/module-names.ts";
import { biasName, factorNames, renameModule, wholeName } from "../../core/adapter/write-peft.ts";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { type FloatDtype, isFloatDtype } from "../../core/ops/cast.ts";
import { allocateMatrix, type Matrix, onHeap, transposed } from "../../core/ops/linalg/matrix.ts";
import { LM_HEAD, tiedEmbedding } from "../../core/plan/adapter.ts";
import { describeArchitecture } from "../../core/plan/architecture.ts";
import { count, uri } from "../../core/schema-atoms.ts";
import { elementCount, sameShape } from "../../core/tensor.ts";
import { compilePattern } from "../../core/universal/name-pattern.ts";
import { defineStep, type StepDeps } from "../step.ts";
import { factorTensors, writeAdapter } from "./adapter-folder.ts";
import { writeFolderManifest } from "./folder-manifest.ts";
import { missingParts } from "./stacked-experts.ts";
import {
  openReadable,
  type ReadableModel,
  readMatrix,
  readTensorBytes,
  roundValues,
  type WholeTensor,
} from "./whole-tensors.ts";

const HEAD = LM_HEAD.replace(/\.weight$/, "");

export const extractLoraStep = defineStep({
  name: "extract-lora",
  input: z.strictObject({
    /** URIs of the folders of the fine-tuned model, of its base, and of the adapter. */
    model: uri,
    base: uri,
    target: uri,
    /** How the adapter's config names its base. */
    baseName: z.string().nullable().default(null),
    maxRank: z.int().positive().default(128),
    svEpsilon: z.number().nonnegative().default(0),
    distributeScale: z.boolean().default(true),
    /** Low-rank factors for embeddings and heads too, which are otherwise kept whole. */
    embeddings: z.boolean().default(false),
    /** Leaves out what has no factors: norms, biases, embeddings. */
    skipWhole: z.boolean().default(false),
    /** Weights are stored [inputs, outputs], as GPT-2's are. */
    inputFirst: z.boolean().default(false),
    /** Regular expressions that names of tensors must, or must not, contain a match of. */
    include: z.string().optional(),
    exclude: z.string().optional(),
  }),
  output: z.strictObject({
    target: z.string(),
    /** Short digest of the folder's manifest. */
    version: z.string(),
    modules: count,
    whole: count,
    rank: count,
    bytes: count,
    /** Of all factored changes: the share of their squared norm that the factors hold. */
    kept: z.number(),
  }),
  /**
   * Throws PlanTensorMissing, PlanShapeMismatch, PlanDtypeNotMergeable, PlanNothingToMerge, EngineNonFinite,
   * YardSourceChanged, the codes of opening a checkpoint and of patterns, and what the stores throw.
   */
  async run(input, deps) {
    const [model, base] = [await openReadable(input.model, deps), await openReadable(input.base, deps)];
    const target = deps.openStore(input.target);
    const extraction: Extraction = { model, base, input, deps, tensors: [], ranks: new Map(), whole: [], biases: [] };
    const energy = { all: 0, kept: 0 };
    let bytesRead = 0;
    for (const entry of selectTensors(extraction)) {
      await extractTensor(extraction, entry, energy);
      bytesRead += 2 * entry.ranges.reduce((sum, { bytes }) => sum + bytes, 0);
      deps.progress?.({ bytesRead, bytesWritten: 0 });
    }
    if (extraction.tensors.length === 0) {
      throw new MergeyardError("PlanNothingToMerge", {
        where: { store: model.store.uri },
        found: "no tensor that differs from the base's",
        expected: "a fine-tuned model",
      });
    }
    addEmptyFactors(extraction);
    addMissingExperts(extraction);
    completeWhole(extraction);
    const [architecture] = architecturesOf(model);
    const rename = (name: string) => newerName(architecture, name);
    const tensors = extraction.tensors.map((own) => ({ ...own, name: renameModule(own.name, rename) }));
    const whole = [...new Set(extraction.whole)].map(rename);
    const adapter = {
      base: input.baseName,
      taskType: "CAUSAL_LM",
      storesInputFirst: input.inputFirst,
      ranks: new Map([...extraction.ranks].map(([module, rank]) => [rename(module), rank])),
      whole,
      hasBias: tensors.some(({ name }) => name.endsWith(".lora_B.bias")),
    };
    const bytes = await writeAdapter(target, tensors, adapter, deps.signal);
    const { model: _model, base: _base, target: _target, ...settings } = input;
    const making = { step: "extract-lora", settings, inputs: [model, base] };
    const version = await writeFolderManifest(target, making, deps.signal);
    return {
      target: target.uri,
      version,
      modules: extraction.ranks.size,
      whole: whole.length,
      rank: Math.max(0, ...extraction.ranks.values()),
      bytes,
      kept: energy.all === 0 ? 1 : energy.kept / energy.all,
    };
  },
});

type Extraction = {
  readonly model: ReadableModel;
  readonly base: ReadableModel;
  readonly input: z.output<typeof extractLoraStep.input>;
  readonly deps: StepDeps;
  readonly tensors: WholeTensor[];
  readonly ranks: Map<string, number>;
  /** Modules that are kept whole, and modules whose bias changed. */
  readonly whole: string[];
  readonly biases: { readonly module: string; readonly dtype: FloatDtype; readonly weight: TensorEntry }[];
};

/** The fine-tune's tensors that the patterns let through, in file order. */
function selectTensors({ model, base, input }: Extraction): readonly TensorEntry[] {
  const [include, exclude] = [input.include, input.exclude].map((pattern) =>
    pattern === undefined ? undefined : compilePattern(`[\\s\\S]*(?:${pattern})`),
  );
  const known = new Set(base.opened.checkpoint.tensors.map(({ name }) => name));
  return model.opened.checkpoint.tensors.filter(({ name }) => {
    if (include?.matches(name) === false || exclude?.matches(name) === true) return false;
    if (known.has(name)) return true;
    throw new MergeyardError("PlanTensorMissing", {
      where: { store: base.store.uri, tensor: name },
      found: "no such tensor in the base",
      hint: "leave such tensors out with --exclude",
    });
  });
}

async function extractTensor(
  extraction: Extraction,
  entry: TensorEntry,
  energy: { all: number; kept: number },
): Promise<void> {
  const { model, base, input, deps } = extraction;
  const { vocabulary, tensors: entries } = describeArchitecture(model.opened.checkpoint);
  const own = base.opened.checkpoint.tensors.find(({ name }) => name === entry.name);
  const module = entry.name.replace(/\.[^.]+$/, "");
  const weight = entries.get(`${module}.weight`);
  const kind = extractKind(entry, weight, { vocabulary, embeddings: factorsEmbeddings(extraction) });
  if (own === undefined || (kind === "whole" && input.skipWhole)) return;
  if (kind === "whole") {
    if (await isSame(extraction, entry, own)) return;
    extraction.whole.push(module);
    const bytes = () => readTensorBytes(model, entry, deps.signal);
    const isHead = isOtherHead(extraction, entry) || isTiedHead(extraction, entry);
    if (isHead) extraction.whole.push(HEAD);
    for (const name of isHead ? [entry.name, LM_HEAD] : [entry.name]) {
      extraction.tensors.push({ name: wholeName(name), dtype: entry.dtype, shape: entry.shape, bytes });
    }
    return;
  }
  if (kind === "bias" && input.skipWhole) return;
  if (!sameShape(entry.shape, own.shape)) {
    const [found, expected] = [entry.shape, own.shape].map((shape) => `[${shape.join(", ")}]`);
    throw new MergeyardError("PlanShapeMismatch", { where: { tensor: entry.name }, found, expected });
  }
  const change = await readChange(extraction, entry, own);
  if (change.values.every((value) => value === 0)) return;
  const dtype = isFloatDtype(entry.dtype) ? entry.dtype : "F32";
  if (kind === "bias" && weight !== undefined) {
    const bytes = roundValues(change.values, dtype);
    extraction.tensors.push({ name: biasName(module), dtype, shape: entry.shape, bytes });
    extraction.biases.push({ module, dtype, weight });
    return;
  }
  addFactors(extraction, { entry, module, isEmbedding: kind === "embedding" }, change, energy);
}

/** PEFT takes no factors of embeddings beside updates of biases. */
function factorsEmbeddings({ model, input }: Extraction): boolean {
  if (!input.embeddings || input.skipWhole) return input.embeddings;
  const { vocabulary, tensors } = describeArchitecture(model.opened.checkpoint);
  return ![...tensors.values()].some((entry) => {
    const weight = tensors.get(entry.name.replace(/\.[^.]+$/, ".weight"));
    return extractKind(entry, weight, { vocabulary, embeddings: true }) === "bias";
  });
}

/** True of an embedding that is also the head: PEFT leaves that as it was unless the adapter has it too. */
function isTiedHead({ model }: Extraction, { name }: TensorEntry): boolean {
  return tiedEmbedding(model.opened.checkpoint)?.name === name;
}

/**
 * True of a head that checkpoints call otherwise than transformers 5 does: PEFT renames nothing of it, and with both
 * names each version finds its own. Source: transformers 5.18, conversion_mapping.py.
 */
function isOtherHead({ model }: Extraction, { name }: TensorEntry): boolean {
  return name === "embed_out.weight" && architecturesOf(model)[0] === "GPTNeoXForCausalLM";
}

function architecturesOf({ opened }: ReadableModel): readonly unknown[] {
  const { architectures } = opened.checkpoint.config ?? {};
  return Array.isArray(architectures) ? architectures : [];
}

/** The factors of one module, named and rounded to the weight's dtype. */
function addFactors(
  extraction: Extraction,
  target: { readonly entry: TensorEntry; readonly module: string; readonly isEmbedding: boolean },
  change: Matrix,
  energy: { all: number; kept: number },
): void {
  const { tensors, ranks, input } = extraction;
  const { entry, module, isEmbedding } = target;
  const factors = extractFactors(isEmbedding || input.inputFirst ? transposed(change) : change, input);
  energy.all += change.values.reduce((sum, value) => sum + value * value, 0);
  if (factors === undefined) return;
  const { a, b } = factors;
  const dtype = isFloatDtype(entry.dtype) ? entry.dtype : "F32";
  tensors.push(...factorTensors({ module, isEmbedding, dtype, shape: entry.shape }, factors));
  ranks.set(module, a.rows);
  const isTied = isTiedHead(extraction, entry);
  if (isTied || isOtherHead(extraction, entry)) {
    const own = isTied ? { a: transposed(b), b: transposed(a) } : factors;
    tensors.push(...factorTensors({ module: HEAD, isEmbedding: false, dtype, shape: entry.shape }, own));
    ranks.set(HEAD, a.rows);
  }
  energy.kept += normOfProduct(a, b);
}

/** |B A|^2, whose terms are orthogonal: the squares of the singular values that are kept. */
function normOfProduct(a: Matrix, b: Matrix): number {
  let sum = 0;
  for (let i = 0; i < a.rows; i++) {
    let [row, column] = [0, 0];
    for (let j = 0; j < a.columns; j++) row += (a.values[i * a.columns + j] ?? 0) ** 2;
    for (let j = 0; j < b.rows; j++) column += (b.values[j * b.columns + i] ?? 0) ** 2;
    sum += row * column;
  }
  return sum;
}

/** fl32(W - W0), the first axis by all others. */
async function readChange({ model, base, deps }: Extraction, entry: TensorEntry, own: TensorEntry): Promise<Matrix> {
  const change = await readMatrix(model, entry, deps.signal);
  const origin = await readMatrix(base, own, deps.signal);
  for (let i = 0; i < change.values.length; i++) {
    change.values[i] = Math.fround((change.values[i] ?? 0) - (origin.values[i] ?? 0));
  }
  return change;
}

async function isSame({ model, base, deps }: Extraction, entry: TensorEntry, own: TensorEntry): Promise<boolean> {
  if (entry.dtype !== own.dtype || !sameShape(entry.shape, own.shape)) return false;
  const bytes = await readTensorBytes(model, entry, deps.signal);
  return Buffer.compare(bytes, await readTensorBytes(base, own, deps.signal)) === 0;
}

/** PEFT has no update of a bias without factors: a module whose bias alone changed gets factors of zeros. */
function addEmptyFactors(extraction: Extraction): void {
  for (const { module, dtype, weight } of extraction.biases) {
    if (!extraction.ranks.has(module)) addZeros(extraction, module, dtype, weight);
  }
}

/** PEFT on transformers 5 takes factors of experts only if every expert of the layer has them, gate and up both. */
function addMissingExperts(extraction: Extraction): void {
  const weights = extraction.model.opened.checkpoint.tensors.filter(({ name }) => name.endsWith(".weight"));
  const modules = new Map(weights.map((entry) => [entry.name.replace(/\.weight$/, ""), entry]));
  for (const module of missingParts([...modules.keys()], extraction.ranks)) {
    const weight = modules.get(module);
    if (weight !== undefined && isFloatDtype(weight.dtype)) addZeros(extraction, module, weight.dtype, weight);
  }
}

/** PEFT wants all tensors of a module that is held whole, and no factors inside of it. */
function completeWhole({ model, tensors, ranks, whole, biases, deps }: Extraction): void {
  const modules = [...new Set(whole)];
  const isInside = (name: string) => modules.some((module) => name.startsWith(`${module}.`));
  const within = [...ranks.keys(), ...biases.map(({ module }) => module)].filter((name) => isInside(`${name}.`));
  const dropped = new Set(within.flatMap((name) => [...Object.values(factorNames(name, false)), biasName(name)]));
  const kept = tensors.filter(({ name }) => !dropped.has(name));
  const known = new Set(kept.map(({ name }) => name));
  for (const module of within) ranks.delete(module);
  const missing = model.opened.checkpoint.tensors.filter(({ name }) => isInside(name) && !known.has(wholeName(name)));
  const added = missing.map((entry): WholeTensor => {
    const bytes = () => readTensorBytes(model, entry, deps.signal);
    return { name: wholeName(entry.name), dtype: entry.dtype, shape: entry.shape, bytes };
  });
  tensors.splice(0, tensors.length, ...kept, ...added);
}

function addZeros({ tensors, ranks }: Extraction, module: string, dtype: FloatDtype, { shape }: TensorEntry): void {
  const [rows, columns] = [shape[0] ?? 0, elementCount(shape.slice(1))];
  const zeros = { a: allocateMatrix(onHeap, 1, columns), b: allocateMatrix(onHeap, rows, 1) };
  tensors.push(...factorTensors({ module, isEmbedding: false, dtype, shape }, zeros));
  ranks.set(module, 1);
}
