// What a GGUF file says of a model and what is refused, by families: entries as llama.cpp's converter writes them, read
// by a reader that is not ours. Whole models of each family were also run by llama.cpp itself (docs/gguf.md).
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gguf } from "@huggingface/gguf";
import { openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import { readAll } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { refusal } from "../refusal.ts";
import { newStore, openerOf, testDeps } from "./deps.ts";
import { type Change, putLlama } from "./small-llama.ts";

const FILE = "model.gguf";

/** The store with a model and its GGUF file. */
async function quantize(change: Change, scheme = "f32"): Promise<ObjectStore> {
  const store = newStore();
  await putLlama(store, change);
  const openStore = openerOf(store);
  const deps = { ...testDeps(openStore), executeQuantize: createQuantizeExecutor(openStore).execute };
  await runStep(quantizeStep, { source: store.uri, target: store.uri, name: FILE, scheme, tokenizer: false }, deps);
  return store;
}

/** The file as another reader has it. */
async function readOther(store: ObjectStore) {
  const folder = mkdtempSync(join(tmpdir(), "gguf-"));
  try {
    writeFileSync(join(folder, FILE), await readAll(store, FILE, 1e8));
    return await gguf(join(folder, FILE), { allowLocalFile: true });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("the size of heads is stated where the config states it, and comes back", async () => {
  for (const [config, stated] of [
    [{}, undefined],
    [{ head_dim: 64 }, 64],
  ] as const) {
    const store = await quantize({ config });
    const { metadata } = await readOther(store);
    const entries: Readonly<Record<string, unknown>> = { ...metadata };
    assert.equal(entries["llama.attention.key_length"], stated);
    assert.equal(entries["llama.attention.value_length"], stated);
    const { checkpoint } = await openCheckpointFile(store, FILE);
    assert.equal(checkpoint.config?.head_dim, stated);
  }
});

test("windows of a family whose readers know none are refused", async () => {
  await assert.rejects(
    quantize({ config: { model_type: "qwen2", use_sliding_window: true, sliding_window: 16 } }),
    refusal({ code: "QuantizeModelUnsupported", field: "use_sliding_window" }),
  );
});
