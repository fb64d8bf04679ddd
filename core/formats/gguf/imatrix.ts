// Importance matrices as llama.cpp writes them, in both generations: for each matrix the mean square of every input
// column. Read whole: they are a thousandth of the model.
// Source: llama.cpp, tools/imatrix; quantization reference section 3.2.
import type { CheckpointFile, ReadRange } from "../../checkpoint.ts";
import { viewOf } from "../../data-view.ts";
import { MergeyardError } from "../../error.ts";
import { IMATRIX_LIMITS } from "../../limits.ts";
import { GGUF_MAGIC, type GgufTensor, readGgufHeader } from "./gguf.ts";
import type { GgufModelTensor } from "./model.ts";

/** By the name of the matrix in GGUF: one value >= 0 for each column; of a stack of experts, one after another's. */
export type Importance = ReadonlyMap<string, Float32Array>;

const SUMS = ".in_sum2";
const COUNTS = ".counts";

/**
 * The importance of every matrix in a file. Throws ImatrixInvalid: cut short, too large, of no known form, or with
 * values that are no mean squares; and the Gguf codes.
 */
export async function readImatrix(read: ReadRange, file: CheckpointFile): Promise<Importance> {
  if (file.bytes > IMATRIX_LIMITS.bytes) {
    throw invalid(file, undefined, `${file.bytes} bytes`, `at most ${IMATRIX_LIMITS.bytes}`);
  }
  const start = new TextDecoder("latin1").decode(await read(0, Math.min(4, file.bytes)));
  const importance =
    start === GGUF_MAGIC ? await readTensors(read, file) : parseEntries(await read(0, file.bytes), file);
  for (const [name, values] of importance) {
    const wrong = values.find((value) => !(value >= 0 && Number.isFinite(value)));
    if (wrong !== undefined) throw invalid(file, name, String(wrong), "finite values of 0 and more");
  }
  return importance;
}

/** The GGUF form: sums of squares and how many tokens they are of. */
async function readTensors(read: ReadRange, file: CheckpointFile): Promise<Importance> {
  const { tensors } = await readGgufHeader(read, file);
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const importance = new Map<string, Float32Array>();
  for (const tensor of tensors) {
    if (!tensor.name.endsWith(SUMS)) continue;
    const name = tensor.name.slice(0, -SUMS.length);
    const counts = byName.get(name + COUNTS);
    if (counts === undefined) throw invalid(file, name, "sums without counts", `a tensor ${name}${COUNTS}`);
    const [sums, tokens] = [await readFloats(read, file, tensor), await readFloats(read, file, counts)];
    const columns = sums.length / tokens.length;
    if (!Number.isInteger(columns)) {
      throw invalid(file, name, `${sums.length} sums of ${tokens.length} matrices`, "as many for each matrix");
    }
    // Each expert has seen tokens of its own.
    tokens.forEach((count, at) => void meansOf(sums.subarray(at * columns, (at + 1) * columns), count));
    importance.set(name, sums);
  }
  if (importance.size === 0) throw invalid(file, undefined, `no tensor ends in ${SUMS}`, "an importance matrix");
  return importance;
}

async function readFloats(read: ReadRange, file: CheckpointFile, tensor: GgufTensor): Promise<Float32Array> {
  if (tensor.type.name !== "F32") throw invalid(file, tensor.name, tensor.type.name, "F32");
  const bytes = await read(tensor.offset, tensor.bytes);
  const view = viewOf(bytes);
  return Float32Array.from({ length: tensor.bytes / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

/** The older form: a count of entries, each a name, a number of calls, and that many times the mean squares. */
function parseEntries(bytes: Uint8Array, file: CheckpointFile): Importance {
  const view = viewOf(bytes);
  let at = 0;
  const take = (count: number): number => {
    if (count > bytes.length - at) throw invalid(file, undefined, `${bytes.length} bytes`, `at least ${at + count}`);
    at += count;
    return at - count;
  };
  const readCount = (what: string, most: number): number => {
    const value = view.getInt32(take(4), true);
    if (value < 1 || value > most) throw invalid(file, undefined, `${value} ${what}`, `1 to ${most}`);
    return value;
  };
  const entries = readCount("entries", IMATRIX_LIMITS.entries);
  const importance = new Map<string, Float32Array>();
  for (let entry = 0; entry < entries; entry++) {
    const length = readCount("bytes of a name", IMATRIX_LIMITS.nameBytes);
    const from = take(length);
    const name = new TextDecoder().decode(bytes.subarray(from, from + length));
    const calls = view.getInt32(take(4), true);
    const count = readCount("columns", Math.floor(bytes.length / 4));
    const values = take(4 * count);
    const sums = Float32Array.from({ length: count }, (_, index) => view.getFloat32(values + 4 * index, true));
    meansOf(sums, calls);
    importance.set(name, sums);
  }
  return importance;
}

/** Sums become means, in float32; a matrix that no token reached has no preference: all ones. */
function meansOf(sums: Float32Array, count: number): void {
  sums.set(sums.map((sum) => (count > 0 ? sum / count : 1)));
}

/**
 * An importance matrix of another model would go unnoticed but for its widths. Throws ImatrixInvalid for one that knows
 * none of the tensors, or one of them with another number of columns.
 */
export function checkImportance(tensors: readonly GgufModelTensor[], importance: Importance): void {
  const known = tensors.filter(({ name }) => importance.has(name));
  if (known.length === 0) {
    const found = `${importance.size} matrices, none of them in this model`;
    throw new MergeyardError("ImatrixInvalid", { found, expected: "matrices of this model" });
  }
  for (const { name, shape, isStack } of known) {
    const columns = (shape.at(-1) ?? 0) * (isStack ? (shape[0] ?? 1) : 1);
    const own = importance.get(name)?.length;
    if (columns === own) continue;
    const expected = isStack ? `${columns}, ${shape.at(-1)} for each of ${shape[0]} experts` : `${columns}`;
    throw new MergeyardError("ImatrixInvalid", { where: { tensor: name }, found: `${own} columns`, expected });
  }
}

function invalid(file: CheckpointFile, tensor: string | undefined, found: string, expected: string): MergeyardError {
  return new MergeyardError("ImatrixInvalid", { where: { file: file.name, tensor }, found, expected });
}
