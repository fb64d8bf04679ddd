// Quantizing a checkpoint of the llama family into one GGUF file: planned from headers, then streamed. Some rows of one
// tensor are in memory at a time, whatever the size of the model, and the error of every tensor is measured on the way.
import assert from "node:assert/strict";
import { z } from "zod";
import type { TensorEntry } from "../core/checkpoint.ts";
import { MergeyardError } from "../core/error.ts";
import { type GgufModelTensor, planGgufModel } from "../core/formats/gguf-model.ts";
import { describeTokenizer, NO_TOKENIZER } from "../core/formats/gguf-tokenizer.ts";
import { GGUF_TYPE_OF, type GgufMetadata } from "../core/formats/gguf-types.ts";
import { encodeGgufHeader } from "../core/formats/gguf-write.ts";
import { type Importance, readImatrix } from "../core/formats/imatrix.ts";
import { parseJsonDocument } from "../core/formats/json-scan.ts";
import { TOKENIZER_LIMITS } from "../core/limits.ts";
import { type FloatDtype, isFloatDtype } from "../core/ops/cast.ts";
import { createScalarKernels } from "../core/ops/kernels.ts";
import { MIXES, type Mix } from "../core/schemes/mixes.ts";
import { BLOCK_SCHEMES } from "../core/schemes/registry.ts";
import { type BlockScheme, rowBytes } from "../core/schemes/scheme.ts";
import { DTYPE_BITS, elementCount } from "../core/tensor.ts";
import { readAll, writeObject } from "../stores/objects.ts";
import type { ObjectStore } from "../stores/store.ts";
import { openCheckpoint, openCheckpointFile, type StoredCheckpoint } from "./open-checkpoint.ts";
import { defineStep, type StepDeps } from "./step.ts";

/** Elements in memory at a time, unless one head of attention has more. Higher: more memory, no less work. */
const WINDOW_ELEMENTS = 1 << 20;

const count = z.int().nonnegative();
const decibel = z.number().nullable();

export const quantizeStep = defineStep({
  name: "quantize",
  input: z.strictObject({
    /** URI of the folder to read, and one file of it that is a checkpoint by itself. */
    source: z.string().min(1),
    sourceFile: z.string().optional(),
    /** URI of the folder to write to, and the name of the file that must not be there yet. */
    target: z.string().min(1),
    name: z.string().min(1),
    scheme: z.enum([...MIXES.keys()]),
    /** An importance matrix: a folder and the file in it. */
    imatrix: z.strictObject({ store: z.string().min(1), key: z.string().min(1) }).optional(),
    /** False: the file says that it has none. */
    tokenizer: z.boolean().default(true),
  }),
  output: z.strictObject({
    target: z.string(),
    name: z.string(),
    scheme: z.string(),
    tensors: count,
    elements: count,
    bytes: count,
    /** Tensors of each scheme. */
    schemes: z.record(z.string(), count),
    hasTokenizer: z.boolean(),
    /** Signal to noise of all quantized tensors together, in dB; null where nothing was lost. */
    snr: decibel,
    /** The tensor that lost most. */
    worst: z.strictObject({ tensor: z.string(), scheme: z.string(), snr: z.number() }).nullable(),
  }),
  /**
   * Throws QuantizeModelUnsupported, QuantizeTokenizerUnsupported, QuantizeNotFinite, ImatrixInvalid,
   * GgufTensorInvalid, YardTargetOccupied, the codes of opening a checkpoint, and what the stores throw. Nothing is
   * published on failure.
   */
  async run(input, deps) {
    const [source, target] = [deps.openStore(input.source), deps.openStore(input.target)];
    const { signal } = deps;
    const opened = await (input.sourceFile === undefined
      ? openCheckpoint(source, "", signal)
      : openCheckpointFile(source, input.sourceFile, signal));
    if ((await target.head(input.name, { signal })) !== undefined) {
      const where = { store: target.uri, file: input.name };
      throw new MergeyardError("YardTargetOccupied", { where, found: "a file", expected: "no file of that name" });
    }
    const tokenizer = input.tokenizer ? await readTokenizer(source, opened, deps) : undefined;
    const importance = input.imatrix === undefined ? new Map() : await openImatrix(input.imatrix, deps);
    const model = planGgufModel(opened.checkpoint, mixOf(input.scheme), tokenizer ?? NO_TOKENIZER, importance.size > 0);
    checkImportance(model.tensors, importance);
    for (const { source: entry } of model.tensors) checkReadable(entry);
    const encoded = encodeGgufHeader(
      model.metadata,
      model.tensors.map(({ name, shape, scheme }) => ({ name, shape, type: typeOf(scheme) })),
    );
    const errors: TensorError[] = [];
    const work: Quantizing = { source, importance, deps, done: { bytesRead: 0, bytesWritten: 0 }, errors };
    const pieces = writePieces(work, model.tensors, encoded);
    await writeObject(target, input.name, pieces, encoded.fileBytes, { signal });
    const schemes = Map.groupBy(model.tensors, ({ scheme }) => scheme);
    return {
      target: target.uri,
      name: input.name,
      scheme: input.scheme,
      tensors: model.tensors.length,
      elements: model.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
      bytes: encoded.fileBytes,
      schemes: Object.fromEntries([...schemes].map(([scheme, tensors]) => [scheme, tensors.length])),
      hasTokenizer: tokenizer !== undefined,
      ...summarise(errors),
    };
  },
});

type TensorError = {
  readonly tensor: string;
  readonly scheme: string;
  /** Sums of squares of the values and of what was lost. */
  signal: number;
  noise: number;
};

type Quantizing = {
  readonly source: ObjectStore;
  readonly importance: Importance;
  readonly deps: StepDeps;
  readonly done: { bytesRead: number; bytesWritten: number };
  readonly errors: TensorError[];
};

function mixOf(id: string): Mix {
  const mix = MIXES.get(id);
  assert.ok(mix !== undefined, "the schema lets only known mixes through");
  return mix;
}

function typeOf(scheme: GgufModelTensor["scheme"]) {
  const type = GGUF_TYPE_OF.get(scheme);
  assert.ok(type !== undefined, "every scheme has a GGUF type");
  return type;
}

/** Metadata of the tokenizer beside the weights; undefined when there is none at all. */
async function readTokenizer(
  source: ObjectStore,
  { checkpoint }: StoredCheckpoint,
  { signal }: StepDeps,
): Promise<GgufMetadata | undefined> {
  const has = (file: string) => checkpoint.sideFiles.some(({ name }) => name === file);
  if (!has("tokenizer.json")) {
    if (!has("tokenizer.model")) return undefined;
    const where = { store: source.uri, file: "tokenizer.model" };
    throw new MergeyardError("QuantizeTokenizerUnsupported", {
      where,
      found: "SentencePiece",
      expected: "tokenizer.json",
    });
  }
  const tokenizerJson = await readAll(source, "tokenizer.json", TOKENIZER_LIMITS.bytes, { signal });
  const file = "tokenizer_config.json";
  const tokenizerConfig = has(file) ? await readObject(source, file, signal) : undefined;
  return describeTokenizer({ tokenizerJson, tokenizerConfig, config: checkpoint.config });
}

async function readObject(source: ObjectStore, file: string, signal: AbortSignal): Promise<Record<string, unknown>> {
  const refuse = ({ offset, found, expected }: { offset?: number; found: string; expected: string }) =>
    new MergeyardError("QuantizeTokenizerUnsupported", { where: { store: source.uri, file, offset }, found, expected });
  const value = parseJsonDocument(await readAll(source, file, TOKENIZER_LIMITS.bytes, { signal }), { refuse });
  const parsed = z.record(z.string(), z.unknown()).safeParse(value);
  if (!parsed.success) throw refuse({ found: "another form", expected: "a JSON object" });
  return parsed.data;
}

async function openImatrix({ store, key }: { store: string; key: string }, deps: StepDeps): Promise<Importance> {
  const [from, { signal }] = [deps.openStore(store), deps];
  const bytes = (await from.head(key, { signal }))?.bytes;
  if (bytes === undefined) throw new MergeyardError("CheckpointFileMissing", { where: { store, file: key } });
  const read = async (offset: number, count: number) => {
    const into = new Uint8Array(count);
    if (count > 0) await from.readInto(key, offset, into, { signal });
    return into;
  };
  return readImatrix(read, { name: key, bytes });
}

/** An importance matrix of another model would go unnoticed but for its widths. */
function checkImportance(tensors: readonly GgufModelTensor[], importance: Importance): void {
  if (importance.size === 0) return;
  const known = tensors.filter(({ name }) => importance.has(name));
  if (known.length === 0) {
    const found = `${importance.size} matrices, none of them in this model`;
    throw new MergeyardError("ImatrixInvalid", { found, expected: "matrices of this model" });
  }
  for (const { name, shape } of known) {
    const [columns, own] = [shape.at(-1), importance.get(name)?.length];
    if (columns === own) continue;
    throw new MergeyardError("ImatrixInvalid", {
      where: { tensor: name },
      found: `${own} columns`,
      expected: `${columns}`,
    });
  }
}

/** Float weights in one piece, as safetensors files have them. */
function checkReadable(entry: TensorEntry): void {
  if (isFloatDtype(entry.dtype) && entry.ranges.length === 1) return;
  const found = isFloatDtype(entry.dtype) ? "a tensor in several pieces" : entry.dtype;
  const hint = "convert the checkpoint to safetensors of F32, F16 or BF16 first";
  throw new MergeyardError("QuantizeModelUnsupported", {
    where: { tensor: entry.name },
    found,
    expected: "floats",
    hint,
  });
}

async function* writePieces(
  work: Quantizing,
  tensors: readonly GgufModelTensor[],
  encoded: ReturnType<typeof encodeGgufHeader>,
): AsyncGenerator<Uint8Array> {
  yield encoded.header;
  let at = encoded.header.length;
  for (const [index, tensor] of tensors.entries()) {
    const place = encoded.tensors[index];
    for await (const piece of quantizeTensor(work, tensor)) {
      yield piece;
      at += piece.length;
      work.done.bytesWritten += piece.length;
      work.deps.progress?.({ ...work.done });
    }
    assert.ok(place !== undefined && at === place.offset + place.bytes, "a tensor's bytes end where the header says");
    const next = encoded.tensors[index + 1]?.offset ?? encoded.fileBytes;
    yield new Uint8Array(next - at);
    at = next;
  }
}

/** Whole rows at a time; of a permuted tensor whole heads, whose rows move among themselves. */
async function* quantizeTensor(work: Quantizing, tensor: GgufModelTensor): AsyncGenerator<Uint8Array> {
  const { shape, permutedHeads } = tensor;
  const isVector = shape.length === 1 && permutedHeads === undefined;
  const columns = isVector || shape.length === 2 ? (shape.at(-1) ?? 1) : 1;
  const rows = elementCount(shape) / columns;
  const headRows = permutedHeads === undefined ? 1 : rows / permutedHeads;
  const unit = headRows * columns;
  const windowRows = headRows * Math.max(1, Math.floor(WINDOW_ELEMENTS / unit));
  const scheme: BlockScheme = BLOCK_SCHEMES[tensor.scheme];
  const bytesPerRow = rowBytes(scheme, columns);
  const error: TensorError = { tensor: tensor.name, scheme: tensor.scheme, signal: 0, noise: 0 };
  const importance = work.importance.get(tensor.name);
  const readRows = createRowReader(work, tensor.source, Math.min(rows, windowRows) * columns);
  const back = new Float32Array(columns);
  for (let first = 0; first < rows; first += windowRows) {
    const taken = Math.min(windowRows, rows - first);
    const values = await readRows(first * columns, taken * columns);
    const piece = new Uint8Array(taken * bytesPerRow);
    for (let row = 0; row < taken; row++) {
      const from = permutedHeads === undefined ? row : sourceRow(row, headRows);
      const weights = values.subarray(from * columns, (from + 1) * columns);
      const stored = piece.subarray(row * bytesPerRow, (row + 1) * bytesPerRow);
      scheme.quantize(weights, stored, importance);
      scheme.dequantize(stored, back);
      measure(error, weights, back);
    }
    if (!Number.isFinite(error.noise)) throw notFinite(tensor, `a scale beyond ${tensor.scheme}`);
    yield piece;
  }
  work.errors.push(error);
}

/** Row 2 i + s of a head is its row s rows / 2 + i: the halves of the rotary embedding, interleaved. */
function sourceRow(row: number, headRows: number): number {
  const inHead = row % headRows;
  return row - inHead + (inHead % 2) * (headRows / 2) + Math.floor(inHead / 2);
}

function createRowReader({ source, deps, done }: Quantizing, entry: TensorEntry, elements: number) {
  const dtype: FloatDtype = isFloatDtype(entry.dtype) ? entry.dtype : "F32";
  const unit = DTYPE_BITS[dtype] / 8;
  const kernels = createScalarKernels(elements * (unit + 4) + 256);
  const [block, tile] = [kernels.allocateBlock(elements * unit), kernels.allocateTile(elements)];
  const [range] = entry.ranges;
  return async (first: number, taken: number): Promise<Float32Array> => {
    deps.signal.throwIfAborted();
    const bytes = block.bytes.subarray(0, taken * unit);
    await source.readInto(range?.file ?? "", (range?.offset ?? 0) + first * unit, bytes, { signal: deps.signal });
    if (kernels.widen(dtype, block, 0, tile, taken) > 0) throw notFinite({ name: entry.name }, "NaN or infinity");
    done.bytesRead += bytes.length;
    return tile.values;
  };
}

function measure(error: TensorError, weights: Float32Array, back: Float32Array): void {
  let [signal, noise] = [0, 0];
  for (let i = 0; i < weights.length; i++) {
    const value = weights[i] ?? 0;
    const lost = value - (back[i] ?? 0);
    signal += value * value;
    noise += lost * lost;
  }
  error.signal += signal;
  error.noise += noise;
}

/** In dB; null for nothing lost. */
function signalToNoise({ signal, noise }: { readonly signal: number; readonly noise: number }): number | null {
  return noise === 0 ? null : 10 * Math.log10(Math.max(signal, Number.MIN_VALUE) / noise);
}

function summarise(errors: readonly TensorError[]) {
  const total = errors.reduce((sum, { signal, noise }) => ({ signal: sum.signal + signal, noise: sum.noise + noise }), {
    signal: 0,
    noise: 0,
  });
  const lossy = errors.flatMap((error) => {
    const snr = signalToNoise(error);
    return snr === null ? [] : [{ tensor: error.tensor, scheme: error.scheme, snr }];
  });
  const [worst = null] = lossy.sort((a, b) => a.snr - b.snr);
  return { snr: signalToNoise(total), worst };
}

function notFinite({ name }: { readonly name: string }, found: string): MergeyardError {
  return new MergeyardError("QuantizeNotFinite", { where: { tensor: name }, found, expected: "finite numbers" });
}
