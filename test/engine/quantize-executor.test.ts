// Goal: the quantize executor makes the same file and measures the same losses for any number of threads, or leaves
// nothing. Method: a file of several regions on disk, its rows checked against the scheme itself.
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { BLOCK_SCHEMES, type BlockSchemeId } from "../../core/schemes/registry.ts";
import { type BlockScheme, rowBytes } from "../../core/schemes/scheme.ts";
import { cutPortions } from "../../engine/quantize-portions.ts";
import type { QuantizeRequest, QuantizeTensor } from "../../engine/quantize-request.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";

const COLUMNS = 512;
const ROWS = 19_000;
const HEADER = Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8);

let folder = "";
const executor = createQuantizeExecutor(createStoreOpener({}));

/** Values of the stored tensor, the upper halves of float32. */
const stored = Uint16Array.from({ length: ROWS * COLUMNS }, (_, i) => 0x3c00 + ((i * 40503) & 0x81ff));

before(() => {
  folder = mkdtempSync(join(tmpdir(), "mergeyard-quantize-"));
  writeFileSync(join(folder, "weights"), new Uint8Array(stored.buffer));
});
after(async () => {
  await executor.close();
  rmSync(folder, { recursive: true });
});

function requestOf(
  threads: number,
  key: string,
  schemes: readonly [BlockSchemeId, number | undefined][],
): QuantizeRequest {
  const tensors: QuantizeTensor[] = [];
  let offset = HEADER.length;
  for (const [scheme, permutedHeads] of schemes) {
    const rows = permutedHeads === undefined ? ROWS : 64;
    const bytes = rows * rowBytes(BLOCK_SCHEMES[scheme], COLUMNS);
    const ranges = [{ file: "weights", offset: 0, bytes: 2 * rows * COLUMNS }];
    const source = { name: `${scheme}.weight`, dtype: "BF16" as const, shape: [rows, COLUMNS], ranges };
    tensors.push({ source, scheme, permutedHeads, importance: undefined, offset, bytes });
    offset += Math.ceil(bytes / 32) * 32;
  }
  const store = pathToFileURL(folder).href;
  const place = { source: store, target: { store, key }, header: HEADER, fileBytes: offset };
  return { ...place, tensors, threads, memoryBytes: 512 * 2 ** 20 };
}

function rowOf(index: number): Float32Array {
  const bits = Uint32Array.from(stored.subarray(index * COLUMNS, (index + 1) * COLUMNS), (half) => half << 16);
  return new Float32Array(bits.buffer);
}

function quantized(id: BlockSchemeId, row: number): Buffer {
  const scheme: BlockScheme = BLOCK_SCHEMES[id];
  const blocks = new Uint8Array(rowBytes(scheme, COLUMNS));
  scheme.quantize(rowOf(row), blocks);
  return Buffer.from(blocks);
}

const options = { signal: new AbortController().signal };

test("any number of threads gives the same bytes and the same losses", async () => {
  const schemes: [BlockSchemeId, number | undefined][] = [
    ["q8_0", undefined],
    ["q4_0", 2],
    ["bf16", undefined],
    ["q4_0", undefined],
  ];
  const files: Buffer[] = [];
  const losses: unknown[] = [];
  for (const threads of [1, 2, 5]) {
    const request = requestOf(threads, `out-${threads}`, schemes);
    assert.ok(cutPortions(request).length > 2, "several regions");
    const result = await executor.execute(request, options);
    assert.equal(result.bytesWritten + HEADER.length, request.fileBytes);
    files.push(readFileSync(join(folder, `out-${threads}`)));
    losses.push(result.losses);
  }
  const [file, ...others] = files;
  assert.ok(file !== undefined);
  for (const other of others) assert.equal(Buffer.compare(other, file), 0);
  assert.deepEqual(losses[1], losses[0]);
  assert.deepEqual(losses[2], losses[0]);
  const { tensors } = requestOf(1, "", schemes);
  for (const row of [0, 1, 700, ROWS - 1]) {
    const bytes = rowBytes(BLOCK_SCHEMES.q8_0, COLUMNS);
    const at = (tensors[0]?.offset ?? 0) + row * bytes;
    assert.deepEqual(file.subarray(at, at + bytes), quantized("q8_0", row));
  }
  // Heads of 32 rows: row 5 is the third of the second half.
  const bytes = rowBytes(BLOCK_SCHEMES.q4_0, COLUMNS);
  const at = (tensors[1]?.offset ?? 0) + 5 * bytes;
  assert.deepEqual(file.subarray(at, at + bytes), quantized("q4_0", 18));
});

test("regions cover the file, whatever the threads, and stay below what a store takes", () => {
  for (const threads of [1, 7, 1024]) {
    const request = requestOf(threads, "out", [
      ["f32", undefined],
      ["q2_k", 4],
    ]);
    let end = 0;
    for (const { offset, bytes } of cutPortions(request)) {
      assert.equal(offset, end);
      end += bytes;
    }
    assert.equal(end, request.fileBytes);
  }
});

test("a failure in one region leaves nothing", async () => {
  const before = readdirSync(folder);
  const request = requestOf(2, "out", [["q8_0", undefined]]);
  const [tensor] = request.tensors;
  assert.ok(tensor !== undefined);
  const source = { ...tensor.source, ranges: [{ file: "weights", offset: 4096, bytes: 2 * ROWS * COLUMNS }] };
  await assert.rejects(executor.execute({ ...request, tensors: [{ ...tensor, source }] }, options), {
    code: "StoreShortRead",
  });
  const small = { ...request, memoryBytes: 2 ** 20 };
  await assert.rejects(executor.execute(small, options), {
    code: "EngineMemoryTooSmall",
  });
  assert.deepEqual(readdirSync(folder), before);
});
