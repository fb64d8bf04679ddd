// Goal: what went wrong is what is told, also where the file that was begun cannot be taken away any more. Method:
// weights that cannot be read, on stores that refuse to discard a write.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import type { ExecuteOptions } from "../../engine/request.ts";
import { quantizeFolderStep } from "../../steps/quantize/folder.ts";
import { quantizeStep } from "../../steps/quantize/quantize.ts";
import { runStep } from "../../steps/step.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { createMergeExecutor } from "../../workers/merge-executor.ts";
import { createPartsExecutor } from "../../workers/parts-executor.ts";
import { createQuantizeExecutor } from "../../workers/quantize-executor.ts";
import { newStore, openerOf, testDeps } from "../steps/deps.ts";
import { exampleModel } from "../steps/folders.ts";
import { makeYard, plan, runUnits } from "../steps/pipeline.ts";

/** Loses the store when `execute` begins: what was planned has been read by then. */
function losing<Request, Result>(
  { lose }: { readonly lose: () => void },
  execute: (request: Request, options: ExecuteOptions) => Promise<Result>,
) {
  return (request: Request, options: ExecuteOptions): Promise<Result> => {
    lose();
    return execute(request, options);
  };
}

/** The store, whose writes cannot be discarded, and whose objects cannot be read from `lose` on. */
function stuck(store: ObjectStore): { readonly store: ObjectStore; readonly lose: () => void } {
  let isLost = false;
  const reading: ObjectStore["readInto"] = (...args) =>
    isLost ? Promise.reject(new MergeyardError("StoreShortRead")) : store.readInto(...args);
  const abortWrite = () => Promise.reject(new MergeyardError("StoreUnavailable"));
  const lose = (): void => {
    isLost = true;
  };
  return { store: { ...store, readInto: reading, abortWrite }, lose };
}

const LOST = { code: "StoreShortRead" };

test("of a GGUF file and of a folder of parts", async () => {
  for (const scheme of ["q8_0", "int8_channel"]) {
    const [source, target] = [stuck(await exampleModel()), stuck(newStore()).store];
    const openStore = openerOf(source.store, target);
    const places = { source: source.store.uri, target: target.uri, scheme };
    const deps = {
      ...testDeps(openStore),
      executeQuantize: losing(source, createQuantizeExecutor(openStore).execute),
      executeParts: losing(source, createPartsExecutor(openStore).execute),
    };
    const made =
      scheme === "q8_0"
        ? runStep(quantizeStep, { ...places, name: "m.gguf", tokenizer: false }, deps)
        : runStep(quantizeFolderStep, places, deps);
    await assert.rejects(made, LOST, scheme);
  }
});

test("of a merge", async () => {
  const yard = stuck(newStore());
  await makeYard(yard.store);
  const openStore = openerOf(yard.store);
  const deps = testDeps(openStore, { executeMerge: losing(yard, createMergeExecutor(openStore).execute) });
  await assert.rejects(runUnits(await plan(yard.store, deps), deps), LOST);
});
