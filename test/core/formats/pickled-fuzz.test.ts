// Goal: whatever happens to a checkpoint's bytes, the readers answer with tensors or with one typed error. Method:
// every golden file is damaged at random from a fixed seed and opened; a read outside of the file, an untyped error, a
// slow file or memory beyond a bound is a failure. FUZZ_MS in the environment gives it more time than its second or
// two.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { suite, test } from "node:test";
import type { FolderReader } from "../../../core/checkpoint.ts";
import { MergeyardError } from "../../../core/error.ts";
import { recogniseFormat } from "../../../core/formats/registry.ts";
import { readTorchFile } from "../../../core/formats/torch/file.ts";
import { listTensors, placeTensors } from "../../../core/formats/torch/tree.ts";
import { fileOf, readerOf } from "./torch-parts.ts";

const GOLDEN = join(import.meta.dirname, "../../golden");
const BUDGET_MS = Number(process.env.FUZZ_MS ?? 1500);
const ROUNDS_MIN = 3;
/** However slow the machine: in so many, by their seeds, some damage of every kind is opened. */
const ROUNDS_TO_OPEN = 20;
/** No file here is larger than 100 KB: a second is a thousand times what reading one takes. */
const SLOW_MS = 1000;
const HEAP_BYTES = 512 * 2 ** 20;

/** A generator of 32-bit integers; its sequence follows from the seed alone (mulberry32). */
function randomOf(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  };
}

/** One to four damages: bits, bytes of telling values, pieces cut, doubled or moved, the end cut off. */
function mutate(bytes: Uint8Array, random: (below: number) => number): Uint8Array {
  let result = Buffer.from(bytes);
  for (let count = 1 + random(4); count > 0 && result.length > 0; count -= 1) {
    const at = random(result.length);
    const length = Math.min(1 + random(16), result.length - at);
    const kind = random(7);
    if (kind === 0) result[at] = (result[at] ?? 0) ^ (1 << random(8));
    else if (kind === 1) result.fill([0, 0xff, 0x7f, 0x80][random(4)] ?? 0, at, at + length);
    else if (kind === 2) result[at] = random(256);
    else if (kind === 3) result = Buffer.concat([result.subarray(0, at), result.subarray(at + length)]);
    else if (kind === 4) result = Buffer.concat([result.subarray(0, at + length), result.subarray(at)]);
    else if (kind === 5) result.copy(result, random(result.length), at, at + length);
    else result = result.subarray(0, at);
  }
  return result;
}

function filesBelow(folder: string): readonly string[] {
  return readdirSync(join(GOLDEN, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !/\.(json|md)$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

/** Runs `open` on damaged files until the time is over; every file is damaged at least once. */
async function fuzz(
  files: readonly string[],
  open: (file: string, bytes: Uint8Array) => Promise<unknown>,
): Promise<void> {
  const startedMs = performance.now();
  const outcomes = { opened: 0, refused: 0 };
  const isEnough = (round: number) => round >= (outcomes.opened > 0 ? ROUNDS_MIN : ROUNDS_TO_OPEN);
  for (let round = 0; !isEnough(round) || performance.now() - startedMs < BUDGET_MS; round += 1) {
    for (const [index, file] of files.entries()) {
      const seed = round * files.length + index;
      const bytes = mutate(readFileSync(file), randomOf(seed));
      const beganMs = performance.now();
      try {
        await open(file, bytes);
        outcomes.opened += 1;
      } catch (error) {
        assert.ok(error instanceof MergeyardError, `${file} seed ${seed}: ${String(error)}`);
        outcomes.refused += 1;
      }
      const tookMs = performance.now() - beganMs;
      assert.ok(tookMs < SLOW_MS, `${file} seed ${seed}: ${tookMs} ms`);
      assert.ok(process.memoryUsage().heapUsed < HEAP_BYTES, `${file} seed ${seed}: heap`);
    }
  }
  assert.ok(outcomes.refused > files.length / 4, "damage is noticed");
  assert.ok(outcomes.opened > 0, "some damage lies in the weights, which headers do not tell");
}

/** The golden folder of a file, with that file replaced. */
function folderOf(root: string, changed: string, bytes: Uint8Array): FolderReader {
  const contents = new Map(
    readdirSync(root, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => {
        const path = join(entry.parentPath, entry.name);
        return [path.slice(root.length + 1), path === changed ? bytes : readFileSync(path)];
      }),
  );
  return {
    files: [...contents].map(([name, content]) => ({ name, bytes: content.length })),
    read: async (name, offset, length) => readerOf(contents.get(name) ?? new Uint8Array(0))(offset, length),
  };
}

suite("damaged checkpoints are opened or refused, never more", () => {
  test("files of torch", async () => {
    await fuzz(
      filesBelow("torch").filter((name) => !name.endsWith(".safetensors")),
      async (name, bytes) => {
        const file = fileOf(bytes, name);
        const opened = await readTorchFile(readerOf(bytes), file);
        return placeTensors(opened, listTensors(opened.value), file);
      },
    );
  });

  for (const [folder, depth] of [
    ["dcp", 1],
    ["dcp-training", 1],
    ["deepspeed", 2],
  ] as const) {
    test(`folders of ${folder}`, async () => {
      const files = filesBelow(folder).filter((name) => !name.endsWith(".safetensors") && !name.includes("expected"));
      await fuzz(files, async (name, bytes) => {
        const inside = name.slice(join(GOLDEN, folder).length + 1).split("/");
        const root = join(GOLDEN, folder, ...inside.slice(0, Math.min(depth, inside.length - 1)));
        const reader = folderOf(inside.length > depth ? root : dirname(name), name, bytes);
        return recogniseFormat(reader.files).open(reader);
      });
    });
  }
});
