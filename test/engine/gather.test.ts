// Following gathers: windows, scattered runs, replicas and averages, on tensors larger and smaller than a window.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import type { Gather } from "../../core/checkpoint.ts";
import { wholeBox } from "../../core/universal/box.ts";
import { GATHER_PEAK_BYTES, type GatherTensor, gatherPieces } from "../../engine/gather.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";

let stores = 0;

async function storeOf(files: Readonly<Record<string, Uint8Array>>): Promise<ObjectStore> {
  stores += 1;
  const store = createMemoryStore(`gather-${process.pid}-${stores}`);
  for (const [name, bytes] of Object.entries(files)) await writeBytes(store, `run/${name}`, bytes);
  return store;
}

/** What is gathered read ahead, and in the calling thread: both must be the same. */
async function collect(store: ObjectStore, tensors: readonly GatherTensor[]): Promise<Uint8Array> {
  const [ahead, inline] = [await collectBy(store, tensors, false), await collectBy(store, tensors, true)];
  assert.equal(Buffer.compare(ahead, inline), 0);
  return ahead;
}

async function collectBy(store: ObjectStore, tensors: readonly GatherTensor[], mayBlock: boolean): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  let most = 0;
  const source = { store, prefix: "run/", mayBlock };
  for await (const piece of gatherPieces(source, tensors, new AbortController().signal)) {
    pieces.push(piece.slice());
    most = Math.max(most, piece.length);
  }
  assert.ok(most * 3 < GATHER_PEAK_BYTES, "windows stay within what is promised");
  return Uint8Array.from(Buffer.concat(pieces));
}

const floats = (...values: number[]) => new Uint8Array(Float32Array.from(values).buffer);
const copy = (file: string, count: number) => [wholeBox([{ file, offset: 0, bytes: 4 * count }], [count])];
const tensor = (shape: readonly number[], gather: Gather, name = "w"): GatherTensor => ({
  name,
  dtype: "F32",
  shape,
  gather,
});

suite("following gathers", () => {
  test("interleaves columns of ranks over many windows", async () => {
    const [rows, left, right] = [3000, 700, 500];
    const file = (columns: number, from: number) => {
      const bytes = new Uint8Array(4 * rows * columns);
      const view = new Uint32Array(bytes.buffer);
      view.forEach((_, index) => {
        view[index] = Math.floor(index / columns) * (left + right) + from + (index % columns);
      });
      return bytes;
    };
    const store = await storeOf({ a: file(left, 0), b: file(right, left) });
    const boxes = [
      wholeBox([{ file: "a", offset: 0, bytes: 4 * rows * left }], [rows, left]),
      wholeBox([{ file: "b", offset: 0, bytes: 4 * rows * right }], [rows, right], [0, left]),
    ];
    const small = tensor([2], { rule: "join", copies: [copy("a", 2)] }, "small");
    const bytes = await collect(store, [small, tensor([rows, left + right], { rule: "join", copies: [boxes] })]);
    const values = new Uint32Array(bytes.slice(8).buffer);
    assert.equal(values.length, rows * (left + right));
    assert.equal(
      values.findIndex((value, index) => value !== index),
      -1,
    );
    assert.deepEqual(new Uint32Array(bytes.slice(0, 8).buffer), Uint32Array.of(0, 1));
  });

  test("takes what replicas agree on, and names where they differ", async () => {
    const store = await storeOf({ a: floats(1, 2, 3), b: floats(1, 2, 3), c: floats(1, 2, 4) });
    const equal = (...files: string[]) => tensor([3], { rule: "equal", copies: files.map((file) => copy(file, 3)) });
    assert.deepEqual(await collect(store, [equal("a", "b")]), floats(1, 2, 3));
    await assert.rejects(collect(store, [equal("a", "b", "c")]), {
      code: "UniversalReplicasDisagree",
      found: "ranks that differ at element 2",
    });
  });

  test("averages in float32, in the order of ranks and from +0", async () => {
    const store = await storeOf({
      a: floats(1, -0, 2 ** 24, 3e38),
      b: floats(2, -0, 1, 3e38),
      c: floats(4, -0, 1, -3e38),
    });
    const mean = tensor([4], { rule: "mean", copies: ["a", "b", "c"].map((file) => copy(file, 4)) });
    const bytes = await collect(store, [mean]);
    const expected = [Math.fround(7 / 3), 0, Math.fround(2 ** 24 / 3), Number.POSITIVE_INFINITY];
    assert.deepEqual([...new Float32Array(bytes.slice().buffer)], expected);
  });

  test("gives nothing for tensors without elements", async () => {
    const store = await storeOf({ a: new Uint8Array(0) });
    const empty = tensor([0, 3], { rule: "join", copies: [[wholeBox([{ file: "a", offset: 0, bytes: 0 }], [0, 3])]] });
    assert.equal((await collect(store, [empty])).length, 0);
  });
});
