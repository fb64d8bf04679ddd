// Quantizing a checkpoint of the llama family into one GGUF file: planned here, from headers; the rows stream through
// the quantize executor, which also measures the error of every tensor on the way.
import assert from "node:assert/strict";
import * as z from "zod";
import type { CheckpointFile, ReadRange, TensorEntry } from "../../core/checkpoint.ts";
import { isVerdict, MergeyardError } from "../../core/error.ts";
import { alignUp, GGUF_ALIGNMENT, readGgufHeader } from "../../core/formats/gguf/gguf.ts";
import { checkImportance, type Importance } from "../../core/formats/gguf/imatrix.ts";
import { type GgufModel, type GgufModelTensor, planGgufModel } from "../../core/formats/gguf/model.ts";
import { splitMetadata, splitTensors } from "../../core/formats/gguf/split.ts";
import { NO_TOKENIZER } from "../../core/formats/gguf/tokenizer.ts";
import { describeTokenizerFiles, GGUF_TOKENIZER_FILES } from "../../core/formats/gguf/tokenizer-files.ts";
import { ggufTypeOf } from "../../core/formats/gguf/type-codes.ts";
import { encodeGgufHeader } from "../../core/formats/gguf/write.ts";
import { type FileLimits, shardName } from "../../core/formats/shards.ts";
import { mapBounded } from "../../core/map-bounded.ts";
import { isFloatDtype } from "../../core/ops/cast.ts";
import { type Loss, NO_LOSS } from "../../core/ops/loss.ts";
import { count, storedFile, uri } from "../../core/schema-atoms.ts";
import { MIXES, type Mix, plannedMix } from "../../core/schemes/mixes.ts";
import { sumOf } from "../../core/sum-of.ts";
import { elementCount } from "../../core/tensor.ts";
import type { QuantizeRequest, QuantizeResult, QuantizeTensor } from "../../engine/quantize-request.ts";
import { readRange } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { openPlace, tensorFileBytes } from "../open-checkpoint.ts";
import { openImatrix } from "../open-imatrix.ts";
import { readDocuments } from "../read-documents.ts";
import { defineStep, type QuantizeDeps } from "../step.ts";
import { lossSchema, summariseLosses } from "./losses.ts";

const positive = z.int().positive();

export const quantizeStep = defineStep({
  name: "quantize",
  input: z.strictObject({
    /** URI of the folder to read, and one file of it that is a checkpoint by itself. */
    source: uri,
    sourceFile: z.string().optional(),
    /** URI of the folder to write to, and the name of the file. */
    target: uri,
    name: z.string().min(1),
    /** True: a file of that name goes when the new one is whole, if it is a former output for this model. */
    replace: z.boolean().default(false),
    /** A mix; or a bit plan: the scheme of every matrix by its name in the file. */
    scheme: z.union([z.enum([...MIXES.keys()]), z.record(z.string(), z.string())]),
    /** An importance matrix: a folder and the file in it. */
    imatrix: storedFile.optional(),
    /** False: the file says that it has none. */
    tokenizer: z.boolean().default(true),
    /** Bounds of one file, where the model is to be a set of files: `name` is then numbered. */
    split: z.strictObject({ maxBytes: positive.optional(), maxTensors: positive.optional() }).default({}),
  }),
  output: z.strictObject({
    target: z.string(),
    name: z.string(),
    /** Names of the files: `name` alone, or those of the set. */
    files: z.array(z.string()),
    scheme: z.string(),
    tensors: count,
    elements: count,
    bytes: count,
    /** Tensors of each scheme. */
    schemes: z.record(z.string(), count),
    hasTokenizer: z.boolean(),
    /** Tensors of the checkpoint that are not of the text model. */
    leftOut: z.int().nonnegative(),
    ...lossSchema,
    threads: count,
  }),
  /**
   * Throws BitPlanInvalid, QuantizeModelUnsupported, QuantizeTokenizerUnsupported, QuantizeNotFinite, ImatrixInvalid,
   * GgufTensorInvalid, YardTargetOccupied, EngineMemoryTooSmall, the codes of opening a checkpoint, and what the stores
   * throw. Nothing is published on failure.
   */
  async run(input, deps: QuantizeDeps) {
    const [source, target] = [deps.openStore(input.source), deps.openStore(input.target)];
    const { signal } = deps;
    const opened = await openPlace({ store: source, prefix: "", file: input.sourceFile }, signal);
    deps.begun?.(tensorFileBytes(opened));
    const files = input.tokenizer ? GGUF_TOKENIZER_FILES : [];
    const documents = await readDocuments({ store: source, prefix: "" }, opened.checkpoint, files, signal);
    const tokenizer = describeTokenizerFiles(documents, opened.checkpoint.config);
    const importance = input.imatrix === undefined ? new Map() : (await openImatrix(input.imatrix, deps)).importance;
    const mix = mixOf(input.scheme);
    const model = planGgufModel(opened.checkpoint, mix, tokenizer ?? NO_TOKENIZER, importance.size > 0);
    if (input.imatrix !== undefined) checkImportance(model.tensors, importance);
    for (const { source: entry } of model.tensors) checkReadable(entry);
    const { tensors } = model;
    const encoded = encodeFiles(model, input, importance);
    await checkFree(target, encoded, input.replace, signal);
    const { losses, threads } = await writeFiles(encoded, source, target, deps);
    const schemes = Map.groupBy(tensors, ({ scheme }) => scheme);
    return {
      target: target.uri,
      name: input.name,
      files: encoded.map(({ name }) => name),
      scheme: mix.id,
      tensors: tensors.length,
      elements: tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0),
      bytes: encoded.reduce((sum, { fileBytes }) => sum + fileBytes, 0),
      schemes: Object.fromEntries([...schemes].map(([scheme, tensors]) => [scheme, tensors.length])),
      hasTokenizer: tokenizer !== undefined,
      leftOut: model.leftOut,
      ...summariseLosses(
        tensors.map(({ source: { name }, scheme }, index) => ({
          tensor: name,
          scheme,
          loss: losses[index] ?? NO_LOSS,
        })),
      ),
      threads,
    };
  },
});

type QuantizedFile = Pick<QuantizeRequest, "header" | "fileBytes" | "tensors"> & { readonly name: string };

/** Every file of the model, from start to end but for the blocks. */
function encodeFiles(
  { metadata, constants, tensors }: GgufModel,
  { name, split }: { readonly name: string; readonly split: FileLimits },
  importance: Importance,
): readonly QuantizedFile[] {
  const bytesOf = ({ shape, scheme }: GgufModelTensor) => {
    const { blockElements, blockBytes } = ggufTypeOf(scheme);
    return alignUp((elementCount(shape) / blockElements) * blockBytes, GGUF_ALIGNMENT);
  };
  const groups = splitTensors(tensors, bytesOf, split);
  const stem = name.replace(/\.gguf$/, "");
  return groups.map((own, index) => {
    const { header, fileBytes, ...encoded } = encodeGgufHeader(
      splitMetadata(metadata, index, groups.length, constants.length + tensors.length),
      own.map(({ name, shape, scheme }) => ({ name, shape, type: ggufTypeOf(scheme) })),
      index === 0 ? constants : [],
    );
    return {
      name: groups.length === 1 ? name : shardName(`${stem}.gguf`, index, groups.length),
      header,
      fileBytes,
      tensors: own.map((tensor, at) => placeTensor(tensor, encoded.tensors[at], importance)),
    };
  });
}

/**
 * Throws YardTargetOccupied when something is in a file's place that does not go. Of a set nothing goes: one of another
 * number of files would stay beside it.
 */
async function checkFree(
  target: ObjectStore,
  files: readonly QuantizedFile[],
  replace: boolean,
  signal: AbortSignal,
): Promise<void> {
  const there = await mapBounded(files, (file) => target.head(file.name, { signal }));
  const [file, info] = [files.find((_, index) => there[index] !== undefined), there.find((each) => each !== undefined)];
  if (file === undefined || info === undefined) return;
  const refuse = (found: string, expected: string, hint: string) =>
    new MergeyardError("YardTargetOccupied", { where: { store: target.uri, file: file.name }, found, expected, hint });
  if (files.length > 1) {
    throw refuse("a file", "no file of that name", "choose another name, or remove the files of the set that is there");
  }
  if (!replace) {
    throw refuse(
      "a file",
      "no file of that name",
      "choose another name, remove the file, or add --force if it was made so",
    );
  }
  const read: ReadRange = (offset, bytes) => readRange(target, file.name, offset, bytes, { signal });
  const before = await describeGguf(read, { name: file.name, bytes: info.bytes });
  const planned: ReadRange = async (_, bytes) => file.header.subarray(0, bytes);
  if (before === (await describeGguf(planned, { name: file.name, bytes: file.fileBytes }))) return;
  const found = before === undefined ? "no GGUF file" : "a GGUF file of another model, or another program's";
  throw refuse(found, "a former output for this model", "choose another name, or remove the file");
}

/** Follows the schemes; everything else of a header follows from the model. */
const OF_SCHEMES = new Set(["general.file_type", "general.description"]);

/**
 * What a GGUF file says of its model, whatever its schemes; undefined of what is no GGUF file. Metadata tells files of
 * ours from llama.cpp's, which always name the model.
 */
async function describeGguf(read: ReadRange, file: CheckpointFile): Promise<string | undefined> {
  try {
    const { metadata, tensors } = await readGgufHeader(read, file);
    const entries = [...metadata].filter(([key]) => !OF_SCHEMES.has(key));
    const shapes = tensors.map(({ name, shape }) => [name, shape]);
    return JSON.stringify([entries, shapes], (_, value) => (typeof value === "bigint" ? String(value) : value));
  } catch (cause) {
    if (isVerdict(cause)) return undefined;
    throw cause;
  }
}

/** One file after the other; when one fails, those before it go. Losses are by the model's tensors. */
async function writeFiles(
  files: readonly QuantizedFile[],
  source: ObjectStore,
  target: ObjectStore,
  { signal, progress, executeQuantize, threads, memoryBytes }: QuantizeDeps,
): Promise<{ readonly losses: readonly Loss[]; readonly threads: number }> {
  const results: QuantizeResult[] = [];
  try {
    for (const { name, ...file } of files) {
      const bytesRead = sumOf(results, (result) => result.bytesRead);
      const bytesWritten = sumOf(results, (result) => result.bytesWritten);
      const request = { ...file, source: source.uri, target: { store: target.uri, key: name }, threads, memoryBytes };
      const result = await executeQuantize(request, {
        signal,
        progress: (done) =>
          progress?.({ bytesRead: bytesRead + done.bytesRead, bytesWritten: bytesWritten + done.bytesWritten }),
      });
      results.push(result);
    }
  } catch (error) {
    // What went wrong is the error to show, not that a file could not be removed after it.
    await Promise.allSettled(files.slice(0, results.length).map(({ name }) => target.delete(name)));
    throw error;
  }
  return {
    losses: results.flatMap((result) => result.losses),
    threads: Math.max(...results.map((result) => result.threads)),
  };
}

function mixOf(scheme: string | Readonly<Record<string, string>>): Mix {
  if (typeof scheme !== "string") return plannedMix(scheme);
  const mix = MIXES.get(scheme);
  assert.ok(mix !== undefined, "the schema lets only known mixes through");
  return mix;
}

/** Float weights that ranges of bytes hold, as they are or packed. */
export function checkReadable(entry: TensorEntry): void {
  if (isFloatDtype(entry.dtype) && entry.gather === undefined) return;
  const found = isFloatDtype(entry.dtype) ? "a tensor that ranks hold in pieces" : entry.dtype;
  const hint = "convert the checkpoint to safetensors of F32, F16 or BF16 first";
  throw new MergeyardError("QuantizeModelUnsupported", {
    where: { tensor: entry.name },
    found,
    expected: "floats",
    hint,
  });
}

function placeTensor(
  { name, source, scheme, permutedHeads, shift }: GgufModelTensor,
  place: { readonly offset: number; readonly bytes: number } | undefined,
  importance: Importance,
): QuantizeTensor {
  assert.ok(place !== undefined, "the header has a place for every tensor");
  const { offset, bytes } = place;
  return { source, scheme, permutedHeads, shift, importance: importance.get(name), offset, bytes };
}
