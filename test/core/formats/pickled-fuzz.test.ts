// Goal: whatever happens to a checkpoint's bytes, the readers answer with tensors or with one typed error. Method:
// every golden file is damaged at random from a fixed seed and opened; a read outside of the file, an untyped error,
// CPU time or memory out of proportion is a failure. FUZZ_TIMES in the environment asks for so many times the rounds.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { suite, test } from "node:test";
import type { FolderReader } from "../../../core/checkpoint.ts";
import { MergeyardError } from "../../../core/error.ts";
import { recogniseFormat } from "../../../core/formats/registry.ts";
import { readTorchFile } from "../../../core/formats/torch/file.ts";
import { listTensors, placeTensors } from "../../../core/formats/torch/tree.ts";
import { withinBounds } from "../../hostile/bounds.ts";
import { createPicker, mutate } from "../../hostile/mutate.ts";
import { fileOf, readerOf } from "./torch-parts.ts";

const GOLDEN = join(import.meta.dirname, "../../golden");
const TIMES = Number(process.env.FUZZ_TIMES ?? 1);
/** No file here is larger than 100 KB: a second is a thousand times what reading one takes. */
const SECONDS_MAX = 1;

function filesBelow(folder: string): readonly string[] {
  return readdirSync(join(GOLDEN, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && !/\.(json|md)$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .sort();
}

/** Runs `open` on every file so many times, damaged in another way each time. */
async function fuzz(
  files: readonly string[],
  rounds: number,
  open: (file: string, bytes: Uint8Array) => Promise<unknown>,
): Promise<void> {
  const outcomes = { opened: 0, refused: 0 };
  for (let round = 0; round < rounds * TIMES; round += 1) {
    for (const [index, file] of files.entries()) {
      const label = `${file} seed ${round * files.length + index}`;
      const bytes = mutate(readFileSync(file), createPicker(round * files.length + index));
      try {
        await withinBounds(label, SECONDS_MAX, () => open(file, bytes));
        outcomes.opened += 1;
      } catch (error) {
        assert.ok(error instanceof MergeyardError, `${label}: ${String(error)}`);
        outcomes.refused += 1;
      }
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
      25,
      async (name, bytes) => {
        const file = fileOf(bytes, name);
        const opened = await readTorchFile(readerOf(bytes), file);
        return placeTensors(opened, listTensors(opened.value), file);
      },
    );
  });

  for (const [folder, depth, rounds] of [
    ["dcp", 1, 20],
    ["dcp-training", 1, 30],
    ["deepspeed", 2, 3],
  ] as const) {
    test(`folders of ${folder}`, async () => {
      const files = filesBelow(folder).filter((name) => !name.endsWith(".safetensors") && !name.includes("expected"));
      await fuzz(files, rounds, async (name, bytes) => {
        const inside = name.slice(join(GOLDEN, folder).length + 1).split("/");
        const root = join(GOLDEN, folder, ...inside.slice(0, Math.min(depth, inside.length - 1)));
        const reader = folderOf(inside.length > depth ? root : dirname(name), name, bytes);
        return recogniseFormat(reader.files).open(reader);
      });
    });
  }
});
