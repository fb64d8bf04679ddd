// Following a training job's folder: which steps are pushed, when, and what is left of those that are not.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { MergeyardError } from "../../core/error.ts";
import { findStepFolders, whyUnfinished } from "../../core/formats/step-folder.ts";
import { openCheckpoint } from "../../steps/open-checkpoint.ts";
import type { PushOutput } from "../../steps/push/push.ts";
import { watchSteps } from "../../steps/push/watch-steps.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, newYard, openerOf, putText, type TestDeps, testDeps } from "./deps.ts";
import { putModel } from "./small-model.ts";

const MEGATRON = path.resolve(import.meta.dirname, "../golden/megatron");
const DEEPSPEED = path.resolve(import.meta.dirname, "../golden/deepspeed/z1_tp2_pp2_dp2_bf16_tied");

type Watching = {
  readonly deps: TestDeps;
  readonly pushed: PushOutput[];
  /** Waits until it holds; the watch goes on meanwhile. */
  readonly until: (what: () => boolean) => Promise<void>;
  readonly stop: () => Promise<void>;
};

function watch(yard: ObjectStore, source: ObjectStore): Watching {
  const abort = new AbortController();
  const deps = { ...testDeps(openerOf(yard, source)), signal: abort.signal };
  const pushed: PushOutput[] = [];
  const input = { yard: yard.uri, source: source.uri, model: "chat", rank: 0, ranks: 1, everyMs: 5 };
  let failure: unknown;
  const ended = watchSteps(input, deps, (result) => void pushed.push(result)).catch((error: unknown) => {
    failure = error;
  });
  const until = async (what: () => boolean) => {
    for (let look = 0; look < 1000 && !what(); look += 1) {
      if (failure !== undefined) throw failure;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.ok(what(), "it happened in time");
  };
  const stop = async () => {
    const reason = new Error("stopped");
    abort.abort(reason);
    await ended;
    assert.equal(failure, reason);
  };
  return { deps, pushed, until, stop };
}

const waits = (watching: Watching, step: string) =>
  watching.deps.events.some((event) => event.event === "step-waiting" && event.step === step);

test("a Trainer's steps are pushed in order when its state is written, each once, also after a restart", async () => {
  const [yard, job] = [await newYard(), newStore()];
  await putModel(job, "checkpoint-1000/", { seed: 2 });
  await putModel(job, "checkpoint-200/", { seed: 1 });
  await putText(job, "checkpoint-200/trainer_state.json", "{}");
  await putText(job, "checkpoint-1000/trainer_state.json", "{}");
  await putModel(job, "checkpoint-1200/", { seed: 3 });
  await putText(job, "logs/events.txt", "no step");
  const first = watch(yard, job);
  await first.until(() => first.pushed.length === 2 && waits(first, "checkpoint-1200"));
  assert.deepEqual(
    first.pushed.map(({ step, outcome }) => [step, outcome]),
    [
      [200, "committed"],
      [1000, "committed"],
    ],
  );
  await putText(job, "checkpoint-1200/trainer_state.json", "{}");
  await first.until(() => first.pushed.length === 3);
  await first.stop();
  const again = watch(yard, job);
  await again.until(() => again.pushed.length === 3);
  assert.ok(again.pushed.every(({ outcome, sentBytes }) => outcome === "present" && sentBytes === 0));
  await again.stop();
});

test("a step whose upload gc has removed is passed over after a restart", async () => {
  const [yard, job] = [await newYard(), newStore()];
  for (const step of [5, 6]) await putModel(job, `step_${step}/`, { seed: step });
  const first = watch(yard, job);
  await first.until(() => first.pushed.length === 2);
  await first.stop();
  const prefix = first.pushed[0]?.prefix ?? "";
  for await (const { key } of yard.list(prefix)) await yard.delete(key);
  await putText(yard, `${prefix}_REMOVED`, "{}");
  const again = watch(yard, job);
  await again.until(() => again.pushed.length === 1);
  assert.deepEqual([again.pushed[0]?.step, again.pushed[0]?.outcome], [6, "present"]);
  const passed = again.deps.events.filter(({ event }) => event === "step-removed");
  assert.deepEqual(
    passed.map(({ step }) => step),
    ["step_5"],
  );
  await again.stop();
});

test("a yard that does not answer is waited for, and told once", async () => {
  const [yard, job] = [await newYard(), newStore()];
  let isSilent = true;
  const silent: ObjectStore = {
    ...yard,
    beginWrite: async (key, ...rest) => {
      if (isSilent) throw new MergeyardError("StoreUnavailable", { where: { store: yard.uri }, found: "ECONNREFUSED" });
      return yard.beginWrite(key, ...rest);
    },
  };
  await putModel(job, "step_5/", { seed: 1 });
  const watching = watch(silent, job);
  await watching.until(() => waits(watching, "step_5"));
  await new Promise((resolve) => setTimeout(resolve, 50));
  const told = watching.deps.events.filter(({ event }) => event === "step-waiting");
  assert.deepEqual(
    told.map(({ reason }) => reason),
    ["StoreUnavailable: ECONNREFUSED"],
  );
  isSilent = false;
  await watching.until(() => watching.pushed.length === 1);
  await watching.stop();
});

test("a step that is written over is pushed again under another name; one that is not whole waits", async () => {
  const [yard, job] = [await newYard(), newStore()];
  await putModel(job, "step_5/", { seed: 1 });
  await job.delete("step_5/model-00002-of-00003.safetensors");
  const watching = watch(yard, job);
  await watching.until(() => waits(watching, "step_5"));
  assert.deepEqual(watching.pushed, []);
  await putModel(job, "step_5/", { seed: 1 });
  await watching.until(() => watching.pushed.length === 1);
  await putModel(job, "step_5/", { seed: 2 });
  await watching.until(() => watching.pushed.length === 2);
  assert.equal(new Set(watching.pushed.map(({ upload }) => upload)).size, 2);
  await watching.stop();
});

test("a DeepSpeed step is pushed when latest names it, with a latest of its own", async () => {
  const [yard, job] = [await newYard(), newStore()];
  const [step = ""] = readdirSync(DEEPSPEED).filter((name) => name.startsWith("global_step"));
  for (const file of readdirSync(path.join(DEEPSPEED, step))) {
    const bytes = readFileSync(path.join(DEEPSPEED, step, file));
    await writeBytes(job, `${step}/${file}`, bytes);
  }
  const watching = watch(yard, job);
  await watching.until(() => waits(watching, step));
  await putText(job, "latest", step);
  await watching.until(() => watching.pushed.length === 1);
  await watching.stop();
  const [pushed] = watching.pushed;
  assert.match(pushed?.upload ?? "", new RegExp(`^${step}-[0-9a-f]{8}$`));
  const { checkpoint } = await openCheckpoint(yard, pushed?.prefix ?? "");
  assert.equal(checkpoint.format, "deepspeed");
});

test("Megatron's steps are pushed when its tracker names them, each with a tracker of its own", async () => {
  const [yard, job] = [await newYard(), newStore()];
  const put = async (folder: string) => {
    for (const file of readdirSync(path.join(MEGATRON, "iter_0000005"))) {
      const bytes = readFileSync(path.join(MEGATRON, "iter_0000005", file));
      await writeBytes(job, `${folder}/${file}`, bytes);
    }
  };
  await put("iter_0000005");
  await putText(job, "latest_checkpointed_iteration.txt", "5\n");
  await put("iter_0000010");
  const watching = watch(yard, job);
  await watching.until(() => watching.pushed.length === 1 && waits(watching, "iter_0000010"));
  await putText(job, "latest_checkpointed_iteration.txt", "10");
  await watching.until(() => watching.pushed.length === 2);
  await watching.stop();
  for (const [index, step] of [5, 10].entries()) {
    const { described, conversion = described } = await openCheckpoint(yard, watching.pushed[index]?.prefix ?? "");
    const trained = (conversion ?? []).flatMap(({ training }) => training?.step ?? []);
    assert.deepEqual(new Set(trained), new Set([step]));
  }
});

test("a step is finished by its trainer's mark, and steps are ordered by number", () => {
  const steps = findStepFolders([
    "checkpoint-90/a",
    "checkpoint-100/a",
    "global_step7/a",
    "global_stepx/a",
    "a",
    "b/c",
  ]);
  assert.deepEqual(
    steps.map(({ folder }) => folder),
    ["global_step7", "checkpoint-90", "checkpoint-100"],
  );
  const [deepspeed, trainer] = steps;
  assert.ok(deepspeed !== undefined && trainer !== undefined);
  assert.equal(whyUnfinished(deepspeed, [], "global_step9"), undefined);
  assert.equal(whyUnfinished(deepspeed, [], "global_step7"), undefined);
  for (const pointed of [undefined, "global_step6", "other"]) {
    assert.notEqual(whyUnfinished(deepspeed, [], pointed), undefined);
  }
  assert.notEqual(whyUnfinished(trainer, ["model.safetensors"], undefined), undefined);
  // Others than Megatron name folders so too, and write no tracker.
  const [iteration] = findStepFolders(["iter_0000012/a"]);
  assert.ok(iteration !== undefined);
  for (const pointed of [undefined, "12", "13"]) assert.equal(whyUnfinished(iteration, [], pointed), undefined);
  for (const pointed of ["11", "release"]) assert.notEqual(whyUnfinished(iteration, [], pointed), undefined);
});
