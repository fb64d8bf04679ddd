// GGUF as a checkpoint: one file, or a set of split files, whose tensors have the names, shapes and row order of the
// Hugging Face model that they were made from. Blocks are dequantized when they are read; no weight is read here.
import type { CheckpointFile, FolderReader, Packing, TensorEntry } from "../../checkpoint.ts";
import { type ErrorCode, MergeyardError } from "../../error.ts";
import { isJsonObject, markFloats, stringifyPython } from "../../json.ts";
import { isFloatDtype } from "../../ops/cast.ts";
import { isDtype, type Shape } from "../../tensor.ts";
import { parametersOf } from "../../universal/conversion.ts";
import type { CheckpointFormat, CheckpointWarning, OpenedCheckpoint } from "../format.ts";
import { singleName } from "../shards.ts";
import { readSideFiles, topLevelFiles } from "../side-files.ts";
import { type GgufConfig, numberOf, readGgufConfig, shortest } from "./config.ts";
import { type GgufHeader, type GgufTensor, readGgufHeader } from "./gguf.ts";
import { GGUF_OUTSIDE } from "./names.ts";
import { SHARED_ROUTER } from "./parts.ts";
import { FREQUENCIES, findLlama3, LONG_FACTORS } from "./rope.ts";
import { rebuildTokenizer } from "./tokenizer-json.ts";
import type { GgufMetadata } from "./type-codes.ts";

const EXTENSION = ".gguf";

export const gguf = Object.freeze({
  id: "gguf",
  title: "GGUF file (llama.cpp)",
  recognise: (files) => topLevelFiles(files).some(({ name }) => name.endsWith(EXTENSION)),
  open: openGgufFolder,
  file: { extensions: [EXTENSION], open: (folder) => openSet(folder, folder.files) },
} satisfies CheckpointFormat);

async function openGgufFolder(folder: FolderReader): Promise<OpenedCheckpoint> {
  const files = topLevelFiles(folder.files).filter(({ name }) => name.endsWith(EXTENSION));
  const sets = Map.groupBy(files, ({ name }) => singleName(name) ?? name);
  const [first = [], ...others] = [...sets.values()];
  if (others.length > 0) {
    const found = [...sets.keys()].join(", ").slice(0, 500);
    throw refusal("CheckpointAmbiguous", first[0]?.name, found, "one model: name its file");
  }
  return openSet(folder, first);
}

type OpenedFile = { readonly file: CheckpointFile; readonly header: GgufHeader };

/** Files of one model, in the order of their names, which is that of the set. */
async function openSet(folder: FolderReader, files: readonly CheckpointFile[]): Promise<OpenedCheckpoint> {
  const opened: OpenedFile[] = [];
  for (const file of files) {
    opened.push({ file, header: await readGgufHeader((at, bytes) => folder.read(file.name, at, bytes), file) });
  }
  checkSplit(opened);
  const metadata: GgufMetadata = new Map(opened.flatMap(({ header }) => [...header.metadata]));
  const places = new Map<string, GgufTensor & { readonly file: string }>();
  for (const { file, header } of opened) {
    for (const tensor of header.tensors) {
      if (places.has(tensor.name)) {
        throw refusal("CheckpointTensorRepeated", file.name, undefined, "every name once", tensor.name);
      }
      places.set(tensor.name, { ...tensor, file: file.name });
    }
  }
  const [name = ""] = files.map((file) => file.name);
  const described = readGgufConfig(metadata, places, name);
  const scaling = (await readFrequencies(folder, places, described.config)) ?? (await readLong(folder, places));
  const config = { ...described.config, ...(scaling === undefined ? {} : { rope_scaling: scaling }) };
  for (const section of [config, config.rope_scaling]) if (isJsonObject(section)) markFloats(section, FLOATS);
  const insides = reverse(described.family.parts);
  const tensors = [...places.values()].flatMap((tensor) => entriesOf(tensor, described, insides));
  const side = await readSideFiles(folder, files);
  const hasTokenizer = side.sideFiles.some(({ name }) => name === "tokenizer.json" || name === "tokenizer.model");
  const tokenizer = hasTokenizer ? undefined : rebuildTokenizer(metadata);
  const text = new TextEncoder().encode(stringifyPython(config));
  const documents = new Map<string, Uint8Array>([
    ...(side.config === undefined ? [["config.json", text] as const] : []),
    ...(tokenizer?.documents ?? []),
  ]);
  return {
    checkpoint: {
      format: gguf.id,
      tensorFiles: files,
      sideFiles: side.sideFiles,
      tensors,
      metadata: new Map(),
      config: side.config ?? config,
      documents,
    },
    warnings: [
      ...warningsOf(places.has(FREQUENCIES) && scaling === undefined, name, tokenizer?.lost),
      ...side.warnings,
    ],
    headers: new Map(),
    digest: undefined,
    conversion: parametersOf(tensors),
  };
}

/** A set says in each file which one it is and of how many; one file says nothing. Throws GgufSplitIncomplete. */
function checkSplit(opened: readonly OpenedFile[]): void {
  const [first] = opened;
  const count = numberOf(first?.header.metadata ?? new Map(), "split.count") ?? 1;
  if (opened.length !== count) {
    throw refusal("GgufSplitIncomplete", first?.file.name, `${opened.length} files`, `${count}`);
  }
  for (const [index, { file, header }] of opened.entries()) {
    const own = numberOf(header.metadata, "split.no") ?? 0;
    if (own !== index) throw refusal("GgufSplitIncomplete", file.name, `split.no ${own}`, `${index}`);
  }
  const stated = numberOf(first?.header.metadata ?? new Map(), "split.tensors.count");
  const found = opened.reduce((sum, { header }) => sum + header.tensors.length, 0);
  if (stated !== undefined && stated !== found) {
    throw refusal("GgufSplitIncomplete", first?.file.name, `${found} tensors`, `${stated}`);
  }
}

/** What a config.json has as floats. */
const FLOATS: ReadonlySet<string> = new Set([
  "attn_logit_softcapping",
  "factor",
  "final_logit_softcapping",
  "high_freq_factor",
  "low_freq_factor",
  "rms_norm_eps",
  "rope_local_base_freq",
  "rope_theta",
]);

/** Frequencies are half of a head's size. */
const FREQUENCIES_MAX = 4096;

type Places = ReadonlyMap<string, GgufTensor & { readonly file: string }>;

async function readConstant(folder: FolderReader, places: Places, name: string): Promise<Float32Array | undefined> {
  const tensor = places.get(name);
  const count = tensor?.shape[0] ?? 0;
  if (tensor === undefined || tensor.type.scheme !== "f32" || count > FREQUENCIES_MAX) return undefined;
  const bytes = await folder.read(tensor.file, tensor.offset, tensor.bytes);
  return new Float32Array(bytes.slice().buffer);
}

/** The scaling that a tensor of frequencies comes from, as config.json has it. */
async function readFrequencies(folder: FolderReader, places: Places, { rope_theta: theta }: GgufConfig["config"]) {
  const values = await readConstant(folder, places, FREQUENCIES);
  return values === undefined ? undefined : findLlama3(values, Number(theta));
}

/** The scaling by factors for long and for short texts. */
async function readLong(folder: FolderReader, places: Places) {
  const [long, short] = LONG_FACTORS;
  const [longer, shorter] = [await readConstant(folder, places, long), await readConstant(folder, places, short)];
  if (longer === undefined || shorter === undefined) return undefined;
  const listed = (values: Float32Array) => Array.from(values, shortest);
  return { type: "longrope", rope_type: "longrope", long_factor: listed(longer), short_factor: listed(shorter) };
}

function warningsOf(losesScaling: boolean, file: string, lost: string | undefined): readonly CheckpointWarning[] {
  return [
    ...(losesScaling ? [{ code: "RopeScalingLost" as const, where: { file, tensor: FREQUENCIES } }] : []),
    ...(lost === undefined ? [] : [{ code: "TokenizerNotRebuilt" as const, where: { file }, found: lost }]),
  ];
}

const CONSTANTS: ReadonlySet<string> = new Set([FREQUENCIES, ...LONG_FACTORS]);
const OUTSIDE = reverse(GGUF_OUTSIDE);
/** Stacked experts, and the part of the table of names that each is. */
const STACKS: ReadonlyMap<string, "gate" | "up" | "down"> = new Map([
  ["ffn_gate_exps", "gate"],
  ["ffn_up_exps", "up"],
  ["ffn_down_exps", "down"],
]);

function reverse(names: Readonly<Record<string, string>>): ReadonlyMap<string, string> {
  return new Map(Object.entries(names).map(([name, own]) => [own, name]));
}

/** A tensor under its Hugging Face name; a stack of experts is one tensor for each. */
function entriesOf(
  tensor: GgufTensor & { readonly file: string },
  model: GgufConfig,
  insides: ReadonlyMap<string, string>,
): readonly TensorEntry[] {
  const { family, layers, heads, keyHeads, experts } = model;
  const { name, shape, file, offset, bytes } = tensor;
  const whole = [{ file, offset, bytes }];
  const shift = name.endsWith("norm.weight") ? (family.normShift ?? 0) : 0;
  const outside = OUTSIDE.get(name);
  if (outside !== undefined) return [entry(tensor, outside, shape, whole, { shift })];
  if (CONSTANTS.has(name)) return [];
  const [, layer = "", part = "", suffix = ""] = /^blk\.(\d{1,5})\.([a-z_]+)\.(weight|bias)$/.exec(name) ?? [];
  const start = `model.layers.${layer}.`;
  const isLayer = layer !== "" && Number(layer) < layers;
  const inside = insides.get(part);
  if (isLayer && inside !== undefined) {
    const own = part === SHARED_ROUTER ? [1, ...shape] : shape;
    const moved = part === "attn_q" ? heads : part === "attn_k" ? keyHeads : undefined;
    return [
      entry(tensor, `${start}${inside}.${suffix}`, own, whole, { heads: family.permutes ? moved : undefined, shift }),
    ];
  }
  if (isLayer && part === "ffn_gate_inp" && family.experts !== undefined) {
    return [entry(tensor, `${start}${family.experts.router}.${suffix}`, shape, whole)];
  }
  const stack = STACKS.get(part);
  if (!isLayer || stack === undefined || family.experts === undefined || shape[0] !== experts) {
    throw refusal("GgufModelUnsupported", file, `a tensor of ${shape.join(" x ")}`, `one of ${family.className}`, name);
  }
  const own = family.experts.parts[stack];
  return Array.from({ length: experts }, (_, expert) => {
    const ranges = [{ file, offset: offset + (expert * bytes) / experts, bytes: bytes / experts }];
    return entry(tensor, `${start}${own.replace("E", String(expert))}.${suffix}`, shape.slice(1), ranges);
  });
}

function entry(
  { type, name: own, file }: GgufTensor & { readonly file: string },
  name: string,
  shape: Shape,
  ranges: TensorEntry["ranges"],
  { heads, shift = 0 }: { readonly heads?: number | undefined; readonly shift?: number } = {},
): TensorEntry {
  const refuse = (found: string, expected: string) => refusal("GgufModelUnsupported", file, found, expected, own);
  const rows = shape[0] ?? 1;
  if (heads !== undefined && (rows % heads !== 0 || (rows / heads) % 2 !== 0)) {
    throw refuse(`${rows} rows for ${heads} heads`, "pairs of rows in every head");
  }
  if (shift !== 0 && type.name !== "F32") throw refuse(`a norm of ${type.name}`, "F32");
  const moved = { ...(heads === undefined ? {} : { interleavedHeads: heads }), ...(shift === 0 ? {} : { shift }) };
  // Plain elements have the same name in both formats.
  if (isDtype(type.name) && (isFloatDtype(type.name) || type.scheme === undefined)) {
    const packing = Object.keys(moved).length === 0 ? {} : { packing: moved };
    return { name, dtype: type.name, shape, ranges, ...packing };
  }
  if (type.scheme === undefined) throw refuse(`type ${type.name}`, "a type that can be read back");
  const packing: Packing = { scheme: type.scheme, ...moved };
  return { name, dtype: "F32", shape, ranges, packing };
}

function refusal(
  code: ErrorCode,
  file: string | undefined,
  found: string | undefined,
  expected: string,
  tensor?: string,
): MergeyardError {
  return new MergeyardError(code, { where: { file, tensor }, found, expected });
}
