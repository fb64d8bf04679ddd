// Goal: the convert executor makes the same file with the same digests for any number of threads, or leaves nothing.
// Method: a file of several regions on disk, gathered from two files of ranks, and the bytes made again by hand.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { digestBytes } from "../../core/artifact/digest.ts";
import { gatherWhole, wholeBox } from "../../core/universal/box.ts";
import { type ConvertRequest, cutConversion } from "../../engine/convert-request.ts";
import type { GatherTensor } from "../../engine/gather.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createConvert } from "../../workers/convert-executor.ts";
import { createPool } from "../../workers/pool.ts";
import { refusal } from "../refusal.ts";

const [ROWS, LEFT, RIGHT] = [1500, 1024, 512];
const HEADER = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);
const COUNT = 6;

let folder = "";
const openStore = createStoreOpener({});
const pool = createPool(openStore);
const convert = createConvert(openStore, pool);
const { signal } = new AbortController();

const left = Uint32Array.from({ length: ROWS * LEFT }, (_, i) => i * 2654435761);
const right = Uint32Array.from({ length: ROWS * RIGHT }, (_, i) => ~i * 40503);

before(() => {
  folder = mkdtempSync(join(tmpdir(), "mergeyard-convert-"));
  writeFileSync(join(folder, "left"), left);
  writeFileSync(join(folder, "right"), right);
});
after(async () => {
  await pool.close();
  rmSync(folder, { recursive: true });
});

/** Columns of both ranks, side by side. */
function joined(name: string): GatherTensor {
  const boxes = [
    wholeBox([{ file: "left", offset: 0, bytes: left.byteLength }], [ROWS, LEFT]),
    wholeBox([{ file: "right", offset: 0, bytes: right.byteLength }], [ROWS, RIGHT], [0, LEFT]),
  ];
  return { name, dtype: "F32", shape: [ROWS, LEFT + RIGHT], gather: { rule: "join", copies: [boxes] } };
}

function expectedTensor(): Buffer {
  const rows = Array.from({ length: ROWS }, (_, row) => [
    Buffer.from(left.buffer, 4 * LEFT * row, 4 * LEFT),
    Buffer.from(right.buffer, 4 * RIGHT * row, 4 * RIGHT),
  ]);
  return Buffer.concat(rows.flat());
}

const empty: GatherTensor = { name: "empty", dtype: "F32", shape: [0], gather: gatherWhole([], [0]) };

function requestOf(threads: number, key: string, tensors: readonly GatherTensor[]): ConvertRequest {
  const store = pathToFileURL(folder).href;
  const full = tensors.filter(({ shape }) => shape.length > 1).length;
  const fileBytes = HEADER.length + full * 4 * ROWS * (LEFT + RIGHT);
  const source = { store, prefix: "" };
  return { source, target: { store, key }, header: HEADER, fileBytes, tensors, threads, memoryBytes: 512 * 2 ** 20 };
}

test("any number of threads gives the same bytes and the same digests", async () => {
  const tensors = [empty, ...Array.from({ length: COUNT }, (_, index) => joined(`w${index}`)), empty];
  const tensor = expectedTensor();
  const expected = Buffer.concat([HEADER, ...Array.from({ length: COUNT }, () => tensor)]);
  const [none, one] = [digestBytes(""), digestBytes(tensor)];
  for (const threads of [1, 2, 5]) {
    const request = requestOf(threads, `out-${threads}`, tensors);
    assert.ok(cutConversion(request).length > 2, "several regions");
    let told = 0;
    const { digests } = await convert(request, { signal, progress: ({ bytesWritten }) => (told = bytesWritten) });
    assert.equal(Buffer.compare(readFileSync(join(folder, `out-${threads}`)), expected), 0);
    assert.deepEqual(digests, [none, ...Array.from({ length: COUNT }, () => one), none]);
    assert.equal(told, request.fileBytes - HEADER.length);
  }
});

test("regions cover the file, and a file without tensors is its header", async () => {
  const request = requestOf(3, "bare", [empty]);
  assert.deepEqual(
    cutConversion(request).map(({ offset, bytes }) => [offset, bytes]),
    [[0, HEADER.length]],
  );
  await convert(request, { signal });
  assert.deepEqual(new Uint8Array(readFileSync(join(folder, "bare"))), HEADER);
  const many = cutConversion(
    requestOf(
      2,
      "many",
      Array.from({ length: 40 }, () => joined("w")),
    ),
  );
  assert.ok(many.length <= 17, "as many regions as keep threads busy");
  let end = 0;
  for (const { offset, bytes } of many) {
    assert.equal(offset, end);
    end += bytes;
  }
  assert.equal(
    end,
    requestOf(
      2,
      "many",
      Array.from({ length: 40 }, () => joined("w")),
    ).fileBytes,
  );
});

test("ranks that disagree leave nothing, whichever thread finds it", async () => {
  const copies = [
    [wholeBox([{ file: "left", offset: 0, bytes: 4096 }], [1024])],
    [wholeBox([{ file: "right", offset: 0, bytes: 4096 }], [1024])],
  ];
  const torn: GatherTensor = { name: "norm", dtype: "F32", shape: [1024], gather: { rule: "equal", copies } };
  for (const threads of [1, 4]) {
    const tensors = [...Array.from({ length: COUNT }, (_, index) => joined(`w${index}`)), torn];
    const whole = requestOf(threads, `torn-${threads}`, tensors);
    const request = { ...whole, fileBytes: whole.fileBytes + 4096 };
    const expected = { code: "UniversalReplicasDisagree", tensor: "norm" };
    await assert.rejects(convert(request, { signal }), refusal(expected));
  }
  assert.deepEqual(
    readdirSync(folder, { recursive: true }).filter((name) => String(name).includes("torn")),
    [],
  );
});

test("memory for one thread is needed, and more threads come only with memory for them", async () => {
  const tensors = Array.from({ length: COUNT }, (_, index) => joined(`w${index}`));
  const small = { ...requestOf(2, "small", tensors), memoryBytes: 16 * 2 ** 20 };
  await assert.rejects(convert(small, { signal }), { code: "EngineMemoryTooSmall" });
  const tight = { ...requestOf(64, "tight", tensors), memoryBytes: 512 * 2 ** 20 };
  const { threads } = await convert(tight, { signal });
  assert.ok(threads >= 1 && threads < 64);
});
