// A compressed-tensors folder as matrices: which tensors are parts of a quantized module, under which scheme, and where
// the bytes of any rows lie. Settled from headers, the config and the stored shapes; values come from the scheme.
// Source: compressed-tensors; quantization reference section 4.
import type { CompressedPacking, TensorEntry } from "../../checkpoint.ts";
import { viewOf } from "../../data-view.ts";
import { MergeyardError } from "../../error.ts";
import type { CompressedForm } from "../../schemes/compressed-form.ts";
import { compressedScheme } from "../../schemes/compressed-scheme.ts";
import type { Matrix, Part } from "../../schemes/scheme.ts";
import { asScaleDtype, elementCount, type ScaleDtype } from "../../tensor.ts";
import { findForm, parseCompressedConfig } from "./compressed-tensors-config.ts";
import { checkPart, invalidPart, type ListQuantized, type ReadTensor, type StoredMatrix } from "./stored-matrix.ts";

/** What belongs to a module's inputs, its cache or the order of its columns, and to no weight. */
const OF_ACTIVATIONS = /^(?:input|output|k|v|q)_(?:scale|zero_point|global_scale|g_idx)$/;
const ORDER = "weight_g_idx";

export const listCompressed: ListQuantized = async (checkpoint, read) => {
  const config = parseCompressedConfig(checkpoint.config?.quantization_config);
  const modules = Map.groupBy(checkpoint.tensors, ({ name }) => name.slice(0, Math.max(0, name.lastIndexOf("."))));
  const matrices: StoredMatrix[] = [];
  const taken = new Set<TensorEntry>();
  for (const [module, entries] of modules) {
    const form = findForm(config, module);
    const parts = new Map(entries.map((entry) => [entry.name.slice(module.length + 1), entry]));
    if (form === undefined || !(parts.has("weight_scale") || parts.has("weight_packed"))) continue;
    matrices.push(await describeMatrix(module, form, parts, read));
    for (const [part, entry] of parts) if (part !== "bias") taken.add(entry);
  }
  return { matrices, others: checkpoint.tensors.filter((entry) => !taken.has(entry)) };
};

async function describeMatrix(
  module: string,
  form: CompressedForm,
  stored: ReadonlyMap<string, TensorEntry>,
  read: ReadTensor,
): Promise<StoredMatrix> {
  const scheme = compressedScheme(form);
  if (scheme === undefined) {
    const found = `${form.format} of ${form.bits} bits by ${form.strategy}`;
    throw new MergeyardError("QuantizedFolderUnsupported", { where: { tensor: `${module}.weight` }, found });
  }
  const matrix = await shapeOf(module, form, stored, read);
  refuseWholeCodes(module, form, matrix, stored.get("weight_packed"));
  if (matrix.columns % scheme.columnUnit !== 0) {
    throw invalidPart(`${module}.weight`, `rows of ${matrix.columns}`, `a multiple of ${scheme.columnUnit}`);
  }
  const wanted = scheme.parts(matrix);
  const order = stored.get(ORDER);
  const parts = wanted.map((part) => ({ ...part, entry: checkPart(module, part, stored.get(part.name)) }));
  const known = new Set([...wanted.map(({ name }) => name), ORDER, "bias"]);
  const extra = [...stored.keys()].find((name) => !known.has(name) && !OF_ACTIVATIONS.test(name));
  if (extra !== undefined)
    throw invalidPart(`${module}.${extra}`, "a part that the scheme does not have", scheme.title);
  const packing = describePacking(form, matrix.dtype, order !== undefined);
  const name = `${module}.weight`;
  if (order === undefined) return { name, matrix, packing, parts };
  const part = columnOrder(matrix.columns);
  return { name, matrix, packing, parts: [...parts, { ...part, entry: checkPart(module, part, order) }] };
}

/** Before 0.18 compressed-tensors put whole codes into words, and left the bits over unused. */
function refuseWholeCodes(module: string, form: CompressedForm, matrix: Matrix, packed: TensorEntry | undefined): void {
  const [, width] = packed?.shape ?? [];
  if (form.format !== "pack-quantized" || width === Math.ceil((matrix.columns * form.bits) / 32)) return;
  if (width !== Math.ceil(matrix.columns / Math.floor(32 / form.bits))) return;
  const found = `words of whole codes of ${form.bits} bits`;
  const expected = "a stream of bits, as compressed-tensors packs them since 0.18";
  throw new MergeyardError("QuantizedFolderUnsupported", { where: { tensor: `${module}.weight` }, found, expected });
}

function describePacking(form: CompressedForm, scales: ScaleDtype, ordered: boolean): CompressedPacking {
  const { container, format, bits, type, symmetric, strategy, group, block } = form;
  const sizes = { ...(group === undefined ? {} : { group }), ...(block === undefined ? {} : { block }) };
  return { container, format, bits, type, symmetric, strategy, ...sizes, scales, ordered };
}

/** The part that says of which group each column is. */
export function columnOrder(columns: number): Part {
  return { name: ORDER, dtype: "I32", shape: [columns], along: undefined };
}

/** Rows and columns: of packed words they are stored, since words may be filled in part. */
async function shapeOf(
  module: string,
  { format }: CompressedForm,
  stored: ReadonlyMap<string, TensorEntry>,
  read: ReadTensor,
): Promise<Matrix> {
  const scales = stored.get("weight_scale");
  const codes = stored.get("weight") ?? stored.get("weight_packed");
  if (scales === undefined) throw invalidPart(`${module}.weight_scale`, "no such tensor", "a scale");
  if (codes === undefined) throw invalidPart(`${module}.weight`, "no such tensor", "codes");
  const dtype = asScaleDtype(scales.dtype) ?? "BF16";
  const [rows = 0, width = 0] = codes.shape;
  if (codes.shape.length !== 2 || rows === 0 || width === 0)
    throw invalidPart(codes.name, `[${codes.shape}]`, "a matrix");
  if (format !== "pack-quantized") return { rows, columns: codes.dtype === "U8" ? 2 * width : width, dtype };
  const shape = stored.get("weight_shape");
  if (shape === undefined || shape.dtype !== "I64" || elementCount(shape.shape) !== 2) {
    throw invalidPart(`${module}.weight_shape`, shape === undefined ? "no such tensor" : shape.dtype, "I64 [2]");
  }
  const bytes = await read(shape);
  const view = viewOf(bytes);
  const [own, columns] = [Number(view.getBigInt64(0, true)), Number(view.getBigInt64(8, true))];
  // Wrong columns show in the widths of the parts; a bound keeps their product exact.
  if (own !== rows || columns < 1 || columns > 32 * width)
    throw invalidPart(shape.name, `[${own}, ${columns}]`, `${rows} rows`);
  return { rows, columns, dtype };
}
