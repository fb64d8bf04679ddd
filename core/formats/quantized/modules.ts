// The quantized modules of folders that GPTQ, AWQ, bitsandbytes and HQQ tools write: which tensors are parts of one,
// and in which form. A module is known by a part that no other has; shapes come from the parts, what they leave open
// from the config or from what the module says of itself.
// Source: GPTQModel, quantization/config.py; AutoAWQ, models/_config.py; bitsandbytes, functional.py: QuantState;
// hqq, core/quantize.py: HQQLinear.state_dict and core/utils.py: encode_safetensor_type.
import * as z from "zod";
import type { Checkpoint, TensorEntry } from "../../checkpoint.ts";
import { viewOf } from "../../data-view.ts";
import { parseAs } from "../../parse-as.ts";
import type { StoredFolder } from "../../schemes/folder-form.ts";
import { folderScheme } from "../../schemes/folder-scheme.ts";
import { HQQ_PACKINGS } from "../../schemes/hqq.ts";
import { asScaleDtype, elementBytes } from "../../tensor.ts";
import { parseJsonDocument } from "../json-scan.ts";
import {
  checkPart,
  invalidPart,
  type ListQuantized,
  type ReadTensor,
  type StoredMatrix,
  unsupportedForm,
} from "./stored-matrix.ts";

/** A description of a module is a few numbers: too long a one is no such thing. */
const DESCRIPTION_BYTES_MAX = 65_536;

/** A module's own tensors, by what follows its path and a dot. */
type Module = { readonly path: string; readonly tensors: ReadonlyMap<string, TensorEntry> };

type Described = {
  readonly form: StoredFolder;
  readonly rows: number;
  readonly columns: number;
  /** The part that holds the codes' bytes as whatever dtype, as what it is. */
  readonly codes?: { readonly name: string; readonly entry: TensorEntry };
};

/** GPTQ of any version: qweight [inputs bits / 32, outputs]. */
export const listGptq: ListQuantized = async (checkpoint) => {
  const { bits, group_size, checkpoint_format, format, dynamic } = parseConfig(checkpoint, gptqSchema);
  const name = checkpoint_format ?? format ?? "gptq";
  const version = VERSIONS.get(name);
  if (version === undefined) throw unsupported("checkpoint_format", name, [...VERSIONS.keys()].join(" or "));
  // Modules that rules leave out have no parts; other bits for some are nowhere said of the module itself.
  const other = Object.keys(dynamic ?? {}).find((rule) => !rule.startsWith("-:"));
  if (other !== undefined) throw unsupported("dynamic", other, "one form for all modules");
  const group = group_size === -1 ? undefined : group_size;
  return listModules(checkpoint, /\.qweight$/, async ({ path, tensors }) => {
    const [words, rows] = matrixShape(path, "qweight", tensors);
    return { form: { container: "gptq", bits, group, version }, rows, columns: Math.floor((words * 32) / bits) };
  });
};

const VERSIONS: ReadonlyMap<string, 1 | 2> = new Map([
  ["gptq", 1],
  ["gptq_v2", 2],
]);

const groupSize = z.union([z.literal(-1), z.int().positive()]);

const gptqSchema = z.looseObject({
  bits: z.literal([2, 3, 4, 8]),
  group_size: groupSize,
  checkpoint_format: z.string().nullish(),
  format: z.string().nullish(),
  dynamic: z.record(z.string(), z.unknown()).nullish(),
});

/** AWQ's gemm layout: qweight [inputs, outputs / 8]. */
export const listAwq: ListQuantized = async (checkpoint) => {
  const config = parseConfig(checkpoint, awqSchema);
  const layout = (config.version ?? config.format ?? "gemm").toLowerCase();
  if (layout !== "gemm") throw unsupported("version", layout, "gemm");
  const [bits, size] = [config.bits ?? config.w_bit, config.group_size ?? config.q_group_size];
  if (bits !== 4) throw unsupported("bits", String(bits), "4");
  if (size === undefined) throw unsupported("group_size", "nothing", "a number");
  return listModules(checkpoint, /\.qweight$/, async ({ path, tensors }) => {
    const [columns, words] = matrixShape(path, "qweight", tensors);
    return { form: { container: "awq", group: size === -1 ? columns : size }, rows: words * 8, columns };
  });
};

const awqSchema = z.looseObject({
  bits: z.int().optional(),
  w_bit: z.int().optional(),
  group_size: groupSize.optional(),
  q_group_size: groupSize.optional(),
  version: z.string().nullish(),
  format: z.string().nullish(),
});

/** 4 bits, whose shape, blocks and table are the module's own; or 8, [outputs, inputs]. */
export const listBitsandbytes: ListQuantized = async (checkpoint, read) => {
  const { load_in_4bit: isFour, load_in_8bit: isEight } = parseConfig(checkpoint, bitsandbytesSchema);
  if (isFour) return listFourBits(checkpoint, read);
  if (!isEight) throw unsupported("load_in_4bit", "neither 4 nor 8 bits", "true");
  return listModules(checkpoint, /\.SCB$/, async (module) => {
    const { path, tensors } = module;
    const [layout] = await readDescription(path, "weight_format", tensors, read);
    if (layout !== ROW_LAYOUT) throw invalidPart(`${path}.weight_format`, String(layout), `${ROW_LAYOUT}, rows`);
    const [rows, columns] = matrixShape(path, "weight", tensors);
    return { form: { container: "bitsandbytes-int8" }, rows, columns };
  });
};

/** Of the layouts of 8-bit weights, the only one that is saved. Source: bitsandbytes, utils.py. */
const ROW_LAYOUT = 0;

/** Codes of the flat matrix, two a byte. */
const listFourBits: ListQuantized = (checkpoint, read) =>
  listModules(checkpoint, STATE, async (module) => {
    const [name = ""] = [...module.tensors.keys()].filter((part) => STATE.test(`.${part}`));
    const state = await readState(module, name, read);
    const { shape, blocksize: block, nested_blocksize, nested_offset } = state;
    const isNested = nested_blocksize !== undefined && nested_offset !== undefined;
    const nested = isNested ? { block: nested_blocksize, offset: Math.fround(nested_offset) } : undefined;
    const codes = viewCodes(module, "weight", "U8", (elements) => [elements, 1]);
    return { form: { container: "bitsandbytes", block, nested }, rows: shape[0], columns: shape[1], ...codes };
  });

/** Trainers that shard modules of one dtype have the bytes of codes seen as the model's dtype. */
function viewCodes(
  { tensors }: Module,
  name: string,
  dtype: "U8" | "I32",
  shapeOf: (elements: number) => readonly number[],
): Pick<Described, "codes"> {
  const entry = tensors.get(name);
  if (entry === undefined) return {};
  const elements = entry.ranges.reduce((sum, { bytes }) => sum + bytes, 0) / elementBytes(dtype, 1);
  return { codes: { name, entry: { ...entry, dtype, shape: shapeOf(elements) } } };
}

const STATE = /\.weight\.quant_state\.bitsandbytes__(?:nf4|fp4)$/;

const bitsandbytesSchema = z.looseObject({
  load_in_4bit: z.boolean().default(false),
  load_in_8bit: z.boolean().default(false),
});

const length = z.int().positive();
const stateSchema = z.looseObject({
  blocksize: length,
  shape: z.tuple([length, length]),
  nested_blocksize: length.optional(),
  nested_offset: z.number().optional(),
});

async function readState({ path, tensors }: Module, name: string, read: ReadTensor) {
  const bytes = await readDescription(path, name, tensors, read);
  const refuse = (found: string) => invalidPart(`${path}.${name}`, found, "JSON of a quantization state");
  return parseAs(stateSchema, parseJsonDocument(bytes, { refuse: ({ found }) => refuse(found) }), refuse);
}

/** hqq's own modules, which say everything of themselves as tensors. */
export const listHqq: ListQuantized = (checkpoint, read) =>
  listModules(checkpoint, /\.W_q$/, async (module) => {
    const { path, tensors } = module;
    const numberOf = async (name: string): Promise<number> => {
      const bytes = await readDescription(path, name, tensors, read);
      const wide = bytes.length === 1 ? bytes[0] : bytes.length === 4 ? viewOf(bytes).getInt32(0, true) : NaN;
      return wide ?? Number.NaN;
    };
    const refuse = (name: string, found: number | string, expected: string) =>
      invalidPart(`${path}.${name}`, String(found), expected);
    const [bits, group, axis] = [await numberOf("nbits"), await numberOf("group_size"), await numberOf("axis")];
    const known = bitsSchema.safeParse(bits).data;
    if (known === undefined) throw refuse("nbits", bits, "2, 3, 4 or 8");
    if (axis !== 0 && axis !== 1) throw refuse("axis", axis, "0 or 1");
    if (!(group > 0)) throw refuse("group_size", group, "a number of columns");
    const packing = new TextDecoder().decode(await readDescription(path, "packing", tensors, read));
    if (packing !== HQQ_PACKINGS[known]) throw refuse("packing", packing, HQQ_PACKINGS[known]);
    const shape = await readDescription(path, "shape", tensors, read);
    if (shape.length !== 16) throw refuse("shape", `${shape.length} bytes`, "I64 [2]");
    const view = viewOf(shape);
    const [rows, columns] = [Number(view.getBigInt64(0, true)), Number(view.getBigInt64(8, true))];
    if ((rows * columns) % group !== 0) throw refuse("group_size", group, `a divisor of ${rows} x ${columns}`);
    const stored = asScaleDtype(tensors.get("scale")?.dtype ?? "F32") ?? "F32";
    const width = axis === 0 ? (rows * columns) / group : group;
    const codes = viewCodes(module, "W_q", known === 3 ? "I32" : "U8", (elements) => [elements / width, width]);
    const turned = axis === 0 ? ({ axis: 0 } as const) : {};
    const form = { container: "hqq", bits: known, group, stored, ...turned } as const;
    return { form, rows, columns, ...codes };
  });

const bitsSchema = z.literal([2, 3, 4, 8]);

/** Every module with a part that `mark` ends the name of, its parts checked against what their form stores. */
async function listModules(
  { tensors }: Pick<Checkpoint, "tensors">,
  mark: RegExp,
  describe: (module: Module) => Promise<Described>,
) {
  const paths = new Set(tensors.flatMap(({ name }) => (mark.test(name) ? [name.replace(mark, "")] : [])));
  const modules = Map.groupBy(tensors, ({ name }) => moduleOf(name, paths));
  const matrices: StoredMatrix[] = [];
  for (const path of paths) {
    const entries = modules.get(path) ?? [];
    const module = { path, tensors: new Map(entries.map((entry) => [entry.name.slice(path.length + 1), entry])) };
    matrices.push(checkModule(module, await describe(module)));
  }
  const isOther = ({ name }: TensorEntry) => {
    const path = moduleOf(name, paths);
    return path === undefined || name === `${path}.bias`;
  };
  return { matrices, others: tensors.filter(isOther) };
}

/** The module that a tensor lies in. */
function moduleOf(name: string, paths: ReadonlySet<string>): string | undefined {
  for (let at = name.lastIndexOf("."); at > 0; at = name.lastIndexOf(".", at - 1)) {
    const path = name.slice(0, at);
    if (paths.has(path)) return path;
  }
  return undefined;
}

function checkModule({ path, tensors }: Module, { form, rows, columns, codes }: Described): StoredMatrix {
  const scheme = folderScheme(form);
  const name = `${path}.weight`;
  const isMatrix = rows > 0 && columns > 0 && Number.isSafeInteger(rows * columns);
  if (!isMatrix || columns % scheme.columnUnit !== 0) {
    throw invalidPart(name, `[${rows}, ${columns}]`, `rows of a multiple of ${scheme.columnUnit}`);
  }
  const matrix = { rows, columns, dtype: "F32" } as const;
  const entryOf = (name: string) => (name === codes?.name ? codes.entry : tensors.get(name));
  const parts = scheme.parts(matrix).map((part) => ({ ...part, entry: checkPart(path, part, entryOf(part.name)) }));
  return { name, matrix, packing: form, parts };
}

function matrixShape(path: string, name: string, tensors: Module["tensors"]): readonly [number, number] {
  const shape = tensors.get(name)?.shape ?? [];
  const [first = 0, second = 0] = shape;
  if (shape.length === 2) return [first, second];
  throw invalidPart(`${path}.${name}`, `[${shape}]`, "a matrix");
}

async function readDescription(
  path: string,
  name: string,
  tensors: Module["tensors"],
  read: ReadTensor,
): Promise<Uint8Array> {
  const entry = tensors.get(name);
  const bytes = entry?.ranges.reduce((sum, range) => sum + range.bytes, 0) ?? 0;
  if (entry !== undefined && entry.ranges.length === 1 && bytes <= DESCRIPTION_BYTES_MAX) return read(entry);
  const found = entry === undefined ? "no such tensor" : `${bytes} bytes`;
  throw invalidPart(`${path}.${name}`, found, "what the module says of itself");
}

function parseConfig<Schema extends z.ZodType>({ config }: Checkpoint, schema: Schema): z.output<Schema> {
  return parseAs(schema, config?.quantization_config, (field, found) => unsupported(field, found, "a form known here"));
}

function unsupported(field: string, found: string, expected: string) {
  return unsupportedForm(`quantization_config.${field}`, found, expected);
}
