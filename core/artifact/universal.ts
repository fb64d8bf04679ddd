// The universal checkpoint: safetensors files and `universal.json`, which lists every parameter once, where its bytes
// are and at which digest, how it may be cut again, and what it was made from. The schema here is its definition;
// docs/format.md is the normative text.
import * as z from "zod";
import { MergeyardError } from "../error.ts";
import { count } from "../schema-atoms.ts";
import { DTYPES, type Shape, tensorBytes } from "../tensor.ts";
import { FAMILY_IDS } from "../universal/family-ids.ts";
import { trainingStateSchema } from "../universal/training-state.ts";
import { sortByName } from "../utf8-order.ts";
import { type Digest, digestJson } from "./digest.ts";
import { digestSchema } from "./digest-schema.ts";
import { type DocumentKind, encodeDocument, parseDocument } from "./document.ts";
import { fileNameSchema } from "./file-name.ts";
import { findListingProblem, type PlainFile, plainFileSchema, type TensorFileListing } from "./listed-file.ts";

export const UNIVERSAL_FILE = "universal.json";

/** Where one tensor's bytes are; in its file it bears the parameter's name. `offset` counts from the file's start. */
const tensorPlaceSchema = z.strictObject({
  dtype: z.enum(DTYPES),
  file: fileNameSchema,
  offset: count,
  bytes: count,
  digest: digestSchema,
});

/**
 * How the ranks of a training topology hold a parameter; what a converter needs to cut it again.
 * unique: one rank owns it. replicated: every tensor-parallel rank holds the same values. averaged: ranks update it
 * apart and the mean counts. fragment: cut along `dim`; `parts` when the axis is several tensors joined (fused q, k, v)
 * that are cut each by itself, with `widths` per rank when the cuts are uneven.
 */
const patternSchema = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("unique") }),
  z.strictObject({ kind: z.literal("replicated") }),
  z.strictObject({ kind: z.literal("averaged") }),
  z.strictObject({
    kind: z.literal("fragment"),
    dim: count,
    parts: z
      .array(z.strictObject({ length: count, widths: z.array(count).min(1).optional() }))
      .min(1)
      .optional(),
  }),
]);

/** Optimizers have a handful of groups. Too high: a hostile document makes long lists. */
const GROUP_MAX = 65_535;

/** Optimizer state of a parameter, all of the parameter's shape, and the step it was saved at. */
const statesSchema = z.strictObject({
  step: count,
  /** Group of the optimizer, and place among the group's parameters: the order of the trainer's flat buffers. */
  group: count.max(GROUP_MAX).optional(),
  position: count.optional(),
  /** Master weights; left out when the parameter itself is stored in F32. */
  fp32: tensorPlaceSchema.optional(),
  exp_avg: tensorPlaceSchema.optional(),
  exp_avg_sq: tensorPlaceSchema.optional(),
});

const parameterSchema = z.strictObject({
  name: z.string(),
  shape: z.array(count),
  ...tensorPlaceSchema.shape,
  pattern: patternSchema,
  /** Rows were padded for the training topology to `paddedRows`; they are stored without the padding. */
  vocabulary: z.strictObject({ paddedRows: count }).optional(),
  /** Other names of the same parameter (tied weights); never stored. */
  aliases: z.array(z.string()).min(1).optional(),
  states: statesSchema.optional(),
});

const universalSchema = z.strictObject({
  universal: z.literal(1),
  /** Tensor files, in name order. */
  files: z.array(z.strictObject({ ...plainFileSchema.shape, headerDigest: digestSchema })),
  /** Files that travel with the weights, in name order. */
  sideFiles: z.array(plainFileSchema),
  /** By file in name order, then by offset. */
  parameters: z.array(parameterSchema),
  /**
   * What it was made from: the id of the source's format and every file that was read, in name order. Files that were
   * read in parts have no digest, and may lie in folders.
   */
  source: z.strictObject({
    format: z.string(),
    /** The family whose built-in table said how ranks cut the parameters, where the source did not. */
    family: z.enum(FAMILY_IDS).optional(),
    files: z.array(z.strictObject({ name: z.string().min(1), bytes: count, digest: digestSchema.optional() })),
  }),
  /** What the trainer saved beside the tensors. */
  training: trainingStateSchema.optional(),
});

export type Universal = z.infer<typeof universalSchema>;
export type UniversalParameter = z.infer<typeof parameterSchema>;

const KIND: DocumentKind<typeof universalSchema> = {
  mark: "universal",
  version: 1,
  schema: universalSchema,
  invalid: "UniversalInvalid",
  unsupported: "UniversalVersionUnsupported",
};

/**
 * The universal form of a safetensors checkpoint whose files stay as they are: every tensor a parameter of one owner.
 * Throws UniversalInvalid when the listings contradict themselves or each other.
 */
export function adoptSafetensors(
  tensorFiles: readonly TensorFileListing[],
  sideFiles: readonly PlainFile[],
): Universal {
  const files = sortByName(tensorFiles);
  const plain = ({ name, bytes, digest }: PlainFile) => ({ name, bytes, digest });
  const universal: Universal = {
    universal: 1,
    files: files.map((file) => ({ ...plain(file), headerDigest: file.headerDigest })),
    sideFiles: sortByName(sideFiles).map(plain),
    parameters: files.flatMap((file) =>
      file.tensors.map((tensor) => ({ ...tensor, file: file.name, pattern: { kind: "unique" as const } })),
    ),
    source: { format: "safetensors", files: sortByName([...files, ...sideFiles]).map(plain) },
  };
  checkUniversal(universal, UNIVERSAL_FILE);
  return universal;
}

/** The bytes of `universal.json`; their SHA-256 is `checkpointDigest`. */
export function encodeUniversal(universal: Universal): Uint8Array<ArrayBuffer> {
  return encodeDocument(universal);
}

/** Identity of a universal checkpoint: the digest of its canonical JSON. Names its folder under checkpoints/. */
export function checkpointDigest(universal: Universal): Digest {
  return digestJson(universal);
}

/**
 * Identity of what is in a checkpoint, wherever its bytes lie and whatever it was made from: names, shapes, digests and
 * steps of its parameters and their states. Equal for one training state saved on two topologies.
 */
export function contentDigest({ parameters }: Universal): Digest {
  return digestJson(
    sortByName(parameters).map(({ name, dtype, shape, digest, aliases = [], states }) => {
      const moments = placesOf(states).map((place) => place?.digest ?? null);
      return { name, dtype, shape, digest, aliases: [...aliases].sort(), step: states?.step ?? null, states: moments };
    }),
  );
}

/** Where the states of a parameter are, in the order of their files; undefined for those that it does not have. */
function placesOf(states: UniversalParameter["states"]): readonly (TensorPlace | undefined)[] {
  return [states?.fp32, states?.exp_avg, states?.exp_avg_sq];
}

/** Throws UniversalInvalid, UniversalVersionUnsupported. */
export function parseUniversal(bytes: Uint8Array, file: string = UNIVERSAL_FILE): Universal {
  const universal = parseDocument(bytes, file, KIND);
  if (universal === undefined) {
    throw new MergeyardError("UniversalInvalid", {
      where: { file, field: "universal" },
      expected: 'a field "universal"',
    });
  }
  checkUniversal(universal, file);
  return universal;
}

/** The tensor files with the digests of their parts, in name order: what a verifier needs. */
export function listTensorFiles(universal: Universal): TensorFileListing[] {
  const tensors = new Map<string, TensorFileListing["tensors"]>(universal.files.map(({ name }) => [name, []]));
  const place = (name: string, shape: Shape, { dtype, file, offset, bytes, digest }: TensorPlace) =>
    tensors.get(file)?.push({ name, dtype, shape: [...shape], offset, bytes, digest });
  for (const { name, shape, states, ...own } of universal.parameters) {
    place(name, shape, own);
    for (const state of placesOf(states)) {
      if (state !== undefined) place(name, shape, state);
    }
  }
  return universal.files.map((file) => ({
    ...file,
    tensors: (tensors.get(file.name) ?? []).sort((a, b) => a.offset - b.offset),
  }));
}

type TensorPlace = z.infer<typeof tensorPlaceSchema>;

/** What the schema cannot say: names once, every place in a listed file, files filled, patterns that fit the shape. */
export function checkUniversal(universal: Universal, file: string): void {
  const refuse = (field: string, found: string, expected: string, tensor?: string): never => {
    throw new MergeyardError("UniversalInvalid", { where: { file, tensor, field }, found, expected });
  };
  const fileNames = new Set<string>();
  for (const { name } of [...universal.files, ...universal.sideFiles]) {
    if (fileNames.has(name) || name === UNIVERSAL_FILE) refuse("files", `${name} again`, "every file once");
    fileNames.add(name);
  }
  const tensorFiles = new Set(universal.files.map(({ name }) => name));
  const names = new Set<string>();
  for (const parameter of universal.parameters) {
    const { name, aliases = [], states, shape } = parameter;
    for (const each of [name, ...aliases]) {
      if (names.has(each)) refuse("parameters", `${each} again`, "every name once", name);
      names.add(each);
    }
    for (const place of [parameter, ...placesOf(states)]) {
      if (place === undefined) continue;
      if (!tensorFiles.has(place.file)) refuse("file", place.file, "a file of `files`", name);
      const bytes = tensorBytes(place.dtype, shape);
      if (place.bytes !== bytes) refuse("bytes", `${place.bytes}`, `${bytes} by dtype and shape`, name);
    }
    const problem = findPatternProblem(parameter);
    if (problem !== undefined) refuse("pattern", problem.found, problem.expected, name);
  }
  for (const [index, listing] of listTensorFiles(universal).entries()) {
    const problem = findListingProblem(listing);
    if (problem !== undefined) refuse(`files[${index}].${problem.field}`, problem.found, problem.expected);
  }
}

function findPatternProblem(parameter: UniversalParameter): { found: string; expected: string } | undefined {
  const { pattern, shape, vocabulary } = parameter;
  const rows = shape[0] ?? 0;
  if (vocabulary !== undefined && vocabulary.paddedRows < rows) {
    return { found: `${vocabulary.paddedRows} padded rows`, expected: `at least the ${rows} rows` };
  }
  if (pattern.kind !== "fragment") return undefined;
  const length = shape[pattern.dim];
  if (length === undefined) return { found: `dim ${pattern.dim}`, expected: `a dim of shape [${shape.join(", ")}]` };
  const parts = pattern.parts ?? [];
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const joined = sum(parts.map((part) => part.length));
  if (parts.length > 0 && joined !== length)
    return { found: `parts of ${joined}`, expected: `${length} along the dim` };
  const uneven = parts.find(({ length: whole, widths }) => widths !== undefined && sum(widths) !== whole);
  if (uneven === undefined) return undefined;
  return { found: `widths [${uneven.widths?.join(", ")}]`, expected: `a sum of ${uneven.length}` };
}
