// Comparing two checkpoints tensor by tensor, in any two formats that can be opened: what only one has, what has
// another shape, and how far the values of the others lie apart. Weights are streamed, a few windows at a time; tensors
// whose digests are known and equal are not read.
import * as z from "zod";
import type { TensorEntry } from "../core/checkpoint.ts";
import { isFloatDtype, scalarCast } from "../core/ops/cast.ts";
import { count, uri } from "../core/schema-atoms.ts";
import { DTYPE_BITS, DTYPES, type Dtype, elementCount, sameShape, tensorBytes } from "../core/tensor.ts";
import { gatherWhole } from "../core/universal/box.ts";
import { type GatherSource, gatherPieces } from "../engine/gather.ts";
import { openPlace, tensorFileBytes } from "./open-checkpoint.ts";
import { defineStep, type StepDeps } from "./step.ts";

/** A folder, or one file of it that is a checkpoint by itself. */
const sourceSchema = z.strictObject({ folder: uri, file: z.string().optional() });
const diffInputSchema = z.strictObject({ a: sourceSchema, b: sourceSchema });
const diffOutputSchema = z.strictObject({
  a: z.string(),
  b: z.string(),
  /** Tensors whose dtype and values are the same. */
  equal: count,
  onlyA: z.array(z.string()),
  onlyB: z.array(z.string()),
  shapes: z.array(z.strictObject({ name: z.string(), a: z.array(count), b: z.array(count) })),
  changed: z.array(
    z.strictObject({
      name: z.string(),
      dtypes: z.tuple([z.enum(DTYPES), z.enum(DTYPES)]),
      elements: count,
      /** Elements whose values differ; NaN equals NaN. Null where arithmetic is not defined: only the bytes differ. */
      changed: count.nullable(),
      /** Largest |b - a|, and |b - a| by |a| as Euclidean norms, of finite values. */
      maxAbs: z.number().nullable(),
      relative: z.number().nullable(),
    }),
  ),
});

export type DiffOutput = z.infer<typeof diffOutputSchema>;

/** Throws the codes of opening a checkpoint, and what the stores throw. */
export const diffStep = defineStep({
  name: "diff",
  input: diffInputSchema,
  output: diffOutputSchema,
  async run({ a, b }, deps) {
    const [left, right] = [await openSide(a, deps), await openSide(b, deps)];
    deps.begun?.(left.bytes + right.bytes);
    const others = new Map(right.tensors.map((tensor) => [tensor.name, tensor]));
    const names = new Set(left.tensors.map(({ name }) => name));
    const onlyA = left.tensors.filter(({ name }) => !others.has(name)).map(({ name }) => name);
    const onlyB = right.tensors.filter(({ name }) => !names.has(name)).map(({ name }) => name);
    const shapes: { name: string; a: number[]; b: number[] }[] = [];
    const changed: TensorDifference[] = [];
    let equal = 0;
    const done = { bytesRead: 0, bytesWritten: 0 };
    for (const tensor of left.tensors) {
      const other = others.get(tensor.name);
      if (other === undefined) continue;
      if (!sameShape(tensor.shape, other.shape)) {
        shapes.push({ name: tensor.name, a: [...tensor.shape], b: [...other.shape] });
        continue;
      }
      const difference = await compareTensors({ ...left, tensor }, { ...right, tensor: other }, deps.signal);
      if (difference === undefined) equal += 1;
      else changed.push(difference);
      done.bytesRead += tensorBytes(tensor.dtype, tensor.shape) + tensorBytes(other.dtype, other.shape);
      deps.progress?.({ ...done });
    }
    return { a: left.source.store.uri, b: right.source.store.uri, equal, onlyA, onlyB, shapes, changed };
  },
});

type Side = { readonly source: GatherSource; readonly tensors: readonly TensorEntry[]; readonly bytes: number };
type OneTensor = { readonly source: GatherSource; readonly tensor: TensorEntry };

async function openSide(
  { folder, file }: { readonly folder: string; readonly file?: string | undefined },
  { openStore, signal }: StepDeps,
): Promise<Side> {
  const source = { store: openStore(folder), prefix: "" };
  const opened = await openPlace({ ...source, file }, signal);
  return { source, tensors: opened.checkpoint.tensors, bytes: tensorFileBytes(opened) };
}

type TensorDifference = DiffOutput["changed"][number];

/** Undefined when every value (and the dtype) is the same. */
async function compareTensors(a: OneTensor, b: OneTensor, signal: AbortSignal): Promise<TensorDifference | undefined> {
  const [x, y] = [a.tensor, b.tensor];
  const isSameDtype = x.dtype === y.dtype;
  if (isSameDtype && x.digest !== undefined && x.digest === y.digest) return undefined;
  const dtypes: [Dtype, Dtype] = [x.dtype, y.dtype];
  const base = { name: x.name, dtypes, elements: elementCount(x.shape) };
  if (!isFloatDtype(x.dtype) || !isFloatDtype(y.dtype)) {
    const isSame = isSameDtype && (await haveSameBytes(a, b, signal));
    return isSame ? undefined : { ...base, changed: null, maxAbs: null, relative: null };
  }
  let [changed, maxAbs, squares, norm] = [0, 0, 0, 0];
  for await (const [left, right] of pairs(floatsOf(a, signal), floatsOf(b, signal))) {
    for (let index = 0; index < left.length; index += 1) {
      const [from, to] = [left[index] ?? 0, right[index] ?? 0];
      if (Number.isFinite(from)) norm += from * from;
      if (Object.is(from, to) || from === to) continue;
      changed += 1;
      const distance = Math.abs(to - from);
      if (!Number.isFinite(distance)) continue;
      maxAbs = Math.max(maxAbs, distance);
      squares += distance * distance;
    }
  }
  if (changed === 0 && isSameDtype) return undefined;
  const relative = norm === 0 ? null : Math.sqrt(squares / norm);
  return { ...base, changed, maxAbs, relative };
}

function piecesOf({ source, tensor }: OneTensor, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const gather = tensor.gather ?? gatherWhole(tensor.ranges, tensor.shape, tensor.packing);
  return gatherPieces(source, [{ ...tensor, gather }], signal);
}

/** Of one dtype and shape, so that the windows are the same. */
async function haveSameBytes(a: OneTensor, b: OneTensor, signal: AbortSignal): Promise<boolean> {
  const others = piecesOf(b, signal);
  for await (const piece of piecesOf(a, signal)) {
    const other = await nextOf(others);
    if (other === undefined || Buffer.compare(piece, other) !== 0) return false;
  }
  return true;
}

async function* floatsOf(one: OneTensor, signal: AbortSignal): AsyncGenerator<Float32Array> {
  const { dtype } = one.tensor;
  if (!isFloatDtype(dtype)) return;
  for await (const bytes of piecesOf(one, signal)) {
    const count = (bytes.length * 8) / DTYPE_BITS[dtype];
    const values = new Float32Array(count);
    scalarCast.widen(dtype, { address: 0, bytes }, 0, { address: 0, values }, count);
    yield values;
  }
}

/** Two streams of equal length side by side, in pieces of equal length: windows of two dtypes hold different counts. */
async function* pairs(
  a: AsyncIterator<Float32Array>,
  b: AsyncIterator<Float32Array>,
): AsyncGenerator<readonly [Float32Array, Float32Array]> {
  let [left, right] = [await nextOf(a), await nextOf(b)];
  while (left !== undefined && right !== undefined) {
    const length = Math.min(left.length, right.length);
    yield [left.subarray(0, length), right.subarray(0, length)];
    left = left.length > length ? left.subarray(length) : await nextOf(a);
    right = right.length > length ? right.subarray(length) : await nextOf(b);
  }
}

async function nextOf<Piece>(pieces: AsyncIterator<Piece>): Promise<Piece | undefined> {
  const next = await pieces.next();
  return next.done === true ? undefined : next.value;
}
