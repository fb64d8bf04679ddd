// Models whose matrices went through a number format: every scheme alone, and bit plans over many of them. Formats are
// measured, not containers: rows too narrow for a block of 256 are taken together, as if the model were wider.
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ChoiceGroup } from "../../core/bit-plan/choices.ts";
import { SENSITIVITIES } from "../../core/bit-plan/sensitivity.ts";
import { solveBitPlan } from "../../core/bit-plan/solve.ts";
import type { TensorEntry } from "../../core/checkpoint.ts";
import { encodeSafetensorsHeader } from "../../core/formats/safetensors/safetensors.ts";
import { deriveCodes, type LowerBits, refitScale } from "../../core/schemes/double-rounding.ts";
import { BLOCK_SCHEMES, isBlockSchemeId, PART_SCHEMES } from "../../core/schemes/registry.ts";
import { partBytes, roundTripBlocks, roundTripParts } from "../../core/schemes/round-trip.ts";
import { type Matrix, rowBytes } from "../../core/schemes/scheme.ts";
import { elementCount } from "../../core/tensor.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import { createDirectoryStore } from "../../stores/directory.ts";
import { createMeasureSchemes } from "../../workers/measure-executor.ts";
import { readTensor, valuesOf } from "../golden/tensors.ts";

/** The widest block there is. */
const WIDEST_BLOCK = 256;

/**
 * One scheme for every matrix; fewer bits derived from stored 8-bit codes by Double Rounding; or the best plan over
 * some schemes within a size.
 */
export type Format =
  | { readonly scheme: string }
  | { readonly derivedBits: LowerBits }
  | { readonly bits: number; readonly candidates: readonly string[]; readonly sensitivity: string };

/** Writes a model whose matrices went through the format to `target`; resolves to its bits a weight, vectors too. */
export async function writeQuantized(folder: string, target: string, format: Format): Promise<number> {
  const store = createDirectoryStore(folder, { durable: false });
  const { checkpoint } = await openCheckpoint(store, "");
  const matrices = checkpoint.tensors.filter(({ shape }) => shape.length === 2);
  const schemes =
    "derivedBits" in format ? new Map() : await chooseSchemes(folder, matrices, checkpoint.tensors, format);
  const { header, tensors, fileBytes } = encodeSafetensorsHeader(
    checkpoint.tensors.map(({ name, shape }) => ({ name, shape, dtype: "F32" })),
  );
  const file = new Uint8Array(fileBytes);
  file.set(header);
  let bytes = 0;
  for (const entry of checkpoint.tensors) {
    const values = valuesOf(await readTensor(store, entry));
    const { back, stored } = store32(values, entry.shape, schemes.get(entry.name), format);
    bytes += stored;
    const place = tensors.find(({ name }) => name === entry.name);
    file.set(new Uint8Array(back.buffer, back.byteOffset, back.byteLength), header.length + (place?.offset ?? 0));
  }
  mkdirSync(target);
  writeFileSync(join(target, "model.safetensors"), file);
  copyFileSync(join(folder, "config.json"), join(target, "config.json"));
  return (8 * bytes) / checkpoint.tensors.reduce((sum, { shape }) => sum + elementCount(shape), 0);
}

/** What a tensor's values become, and the bytes they take; vectors stay as they are. */
function store32(
  values: Float32Array,
  shape: readonly number[],
  scheme: string | undefined,
  format: Format,
): { readonly back: Float32Array; readonly stored: number } {
  const matrix = joinRows(shape);
  if (shape.length === 2 && "derivedBits" in format) {
    const stored = (values.length * format.derivedBits) / 8 + 4 * matrix.rows;
    return { back: derive(matrix, values, format.derivedBits), stored };
  }
  if (scheme === undefined) return { back: values, stored: 4 * values.length };
  return { back: roundTrip(scheme, matrix, values), stored: schemeBytes(scheme, matrix) };
}

/** Quantized to 8 bits by channel, cut to fewer, and back, with the step refitted to the stored codes. */
function derive(matrix: Matrix, values: Float32Array, bits: LowerBits): Float32Array {
  const { rows, columns } = matrix;
  const scheme = PART_SCHEMES.get("int8_dynamic");
  assert.ok(scheme !== undefined, "int8_dynamic is registered");
  const codes = new Int8Array(rows * columns);
  const scales = new Float32Array(rows);
  const parts = new Map([
    ["weight", new Uint8Array(codes.buffer)],
    ["weight_scale", new Uint8Array(scales.buffer)],
  ]);
  scheme.quantize({ matrix, first: 0, count: rows, values, parts }, {});
  const back = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const stored = codes.subarray(row * columns, (row + 1) * columns);
    const derived = deriveCodes(stored, bits);
    const scale = refitScale(stored, derived, scales[row] ?? 0, bits);
    for (const [column, code] of derived.entries()) back[row * columns + column] = code * scale;
  }
  return back;
}

/** Rows taken together until they hold whole blocks of the widest kind. */
function joinRows([rows = 1, columns = 1]: readonly number[]): Matrix {
  let joined = 1;
  while ((columns * joined) % WIDEST_BLOCK !== 0 && rows % (2 * joined) === 0) joined *= 2;
  return { rows: rows / joined, columns: columns * joined, dtype: "F32" };
}

function roundTrip(id: string, matrix: Matrix, values: Float32Array): Float32Array {
  if (isBlockSchemeId(id)) return roundTripBlocks(BLOCK_SCHEMES[id], matrix, values);
  const parts = PART_SCHEMES.get(id);
  assert.ok(parts !== undefined, `${id} is registered`);
  return roundTripParts(parts, matrix, values);
}

function schemeBytes(id: string, matrix: Matrix): number {
  if (isBlockSchemeId(id)) return matrix.rows * rowBytes(BLOCK_SCHEMES[id], matrix.columns);
  const parts = PART_SCHEMES.get(id);
  assert.ok(parts !== undefined, `${id} is registered`);
  return partBytes(parts, matrix);
}

async function chooseSchemes(
  folder: string,
  matrices: readonly TensorEntry[],
  all: readonly TensorEntry[],
  format: Exclude<Format, { readonly derivedBits: LowerBits }>,
): Promise<ReadonlyMap<string, string>> {
  if ("scheme" in format) return new Map(matrices.map(({ name }) => [name, format.scheme]));
  const { candidates, bits } = format;
  const joined = matrices.map((entry) => ({ entry, matrix: joinRows(entry.shape) }));
  const measure = createMeasureSchemes((uri) => createDirectoryStore(uri, { durable: false }));
  const errors = await measure(
    {
      source: folder,
      tensors: joined.map(({ entry, matrix: { rows, columns } }) => ({
        source: { ...entry, shape: [rows, columns] },
        candidates,
        importance: undefined,
      })),
    },
    { signal: new AbortController().signal },
  );
  const sensitivity = SENSITIVITIES.get(format.sensitivity);
  assert.ok(sensitivity !== undefined, `${format.sensitivity} is registered`);
  const groups = joined.map(({ entry, matrix }, index): ChoiceGroup => {
    const place = { kind: "other", index: 0, count: 1, elements: elementCount(entry.shape) } as const;
    const choices = candidates.flatMap((scheme, candidate) => {
      const error = errors[index]?.[candidate];
      return error === undefined
        ? []
        : [{ scheme, bytes: schemeBytes(scheme, matrix), loss: sensitivity.loss(error, place) }];
    });
    return { tensors: [entry.name], choices };
  });
  const elements = all.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  const vectors = elements - matrices.reduce((sum, { shape }) => sum + elementCount(shape), 0);
  const solution = solveBitPlan(groups, Math.floor((bits * elements) / 8) - 4 * vectors);
  assert.ok(solution !== undefined, `${bits} bits hold the smallest candidates`);
  return new Map(matrices.map(({ name }, index) => [name, solution.choices[index]?.scheme ?? ""]));
}
