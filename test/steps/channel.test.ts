import assert from "node:assert/strict";
import { test } from "node:test";
import { moveChannel } from "../../steps/channel.ts";
import { publishStep } from "../../steps/publish.ts";
import { runStep } from "../../steps/step.ts";
import { readChannel } from "../../steps/yard.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";
import { createInThreadExecutor } from "./in-thread-executor.ts";
import { makeYard, plan, recipe, runPipeline, runUnits } from "./pipeline.ts";

const { signal } = new AbortController();
const PLACE = { model: "ab", channel: "nightly" };

const move = (yard: ObjectStore, version: string, decidedMs: number, run: string | null = `run-${version}`) =>
  moveChannel(yard, PLACE, { version, run, decidedMs }, signal);

test("a channel follows the later decision, whichever comes first", async () => {
  const yard = newStore();
  assert.equal((await move(yard, "v2", 20)).outcome, "moved");
  const late = await move(yard, "v1", 10);
  assert.deepEqual(late, { outcome: "lost", current: { version: "v2", run: "run-v2", decidedMs: 20 } });
  assert.equal((await move(yard, "v2", 30)).outcome, "kept");
  assert.equal((await move(yard, "v3", 40)).outcome, "moved");
  const record = (await readChannel(yard, "ab", "nightly"))?.value;
  assert.equal(record?.version, "v3");
  assert.deepEqual(
    record?.history.map(({ version }) => version),
    ["v2"],
  );
});

test("a run planned before a person rolled back does not undo it", async () => {
  const yard = newStore();
  await move(yard, "v1", 10);
  await move(yard, "v0", 30, null);
  assert.deepEqual((await move(yard, "v2", 20)).current, { version: "v0", run: null, decidedMs: 30 });
  assert.equal((await move(yard, "v3", 40)).outcome, "moved");
});

test("of many at once, the latest decision ends as the channel, and every loser learns of a later one", async () => {
  for (const racers of [2, 32]) {
    const yard = newStore();
    const moves = await Promise.all(
      Array.from({ length: racers }, (_, index) => move(yard, `v${index}`, (index * 7) % racers, `run-${index}`)),
    );
    const latest = Array.from({ length: racers }, (_, index) => index).find(
      (index) => (index * 7) % racers === racers - 1,
    );
    const record = (await readChannel(yard, "ab", "nightly"))?.value;
    assert.equal(record?.version, `v${latest}`);
    moves.forEach(({ outcome, current }, index) => {
      if (outcome === "moved") assert.equal(current.version, `v${index}`);
      else assert.ok(outcome === "lost" && current.decidedMs > (index * 7) % racers);
    });
    const winners = moves.filter(({ outcome }) => outcome === "moved");
    assert.equal(record?.history.length, winners.length - 1);
  }
});

test("decisions at one time are ordered by their run", async () => {
  const yard = newStore();
  await move(yard, "v1", 10, "b");
  assert.equal((await move(yard, "v2", 10, "a")).outcome, "lost");
  assert.equal((await move(yard, "v3", 10, "c")).outcome, "moved");
});

test("a channel that never holds still is given up with an error worth another try", async () => {
  const yard = newStore();
  await move(yard, "v1", 10);
  const restless = { ...yard, replace: async () => ({ replaced: false, etag: "other" }) };
  await assert.rejects(move(restless, "v2", 20), { code: "YardChannelContended", retryable: true });
});

test("publishers race on one channel: all versions are whole, one is current, the losers say who won", async () => {
  for (const racers of [2, 8]) {
    const yard = newStore();
    const openStore = openerOf(yard);
    await makeYard(yard);
    const runs = [];
    for (let index = 0; index < racers; index += 1) {
      await putText(yard, `pipelines/p${index}.yaml`, recipe(0.5 + index / 16));
      const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) }, 1000 * (index + 1));
      const planned = await plan(yard, deps, `pipelines/p${index}.yaml`);
      await runUnits(planned, deps);
      runs.push({ deps, input: { yard: yard.uri, run: planned.run, plannedMs: planned.plannedMs } });
    }
    // The one planned last is asked last, so that the others have every chance to come later.
    const results = await Promise.all(runs.reverse().map(({ deps, input }) => runStep(publishStep, input, deps)));
    const latest = results[0];
    assert.equal(latest?.outcome, "published");
    const channel = (await readChannel(yard, "ab", "nightly"))?.value;
    assert.equal(channel?.version, latest?.version);
    for (const { version, outcome, current } of results) {
      assert.ok(await yard.head(`artifacts/ab/${version}/manifest.json`));
      if (outcome === "lost-race") assert.notEqual(current?.version, version);
      else assert.equal(outcome, "published");
    }
    assert.ok(results.some(({ outcome }) => outcome === "lost-race"));
  }
});

test("a run planned after another has published is later, whatever its machine's clock says", async () => {
  const yard = newStore();
  const openStore = openerOf(yard);
  await makeYard(yard);
  const executeMerge = createInThreadExecutor(openStore);
  const ahead = await runPipeline(yard, testDeps(openStore, { executeMerge }, 9_000_000));
  await putText(yard, "pipelines/small.yaml", recipe(0.25));
  const behind = await runPipeline(yard, testDeps(openStore, { executeMerge }, 1_000));
  assert.deepEqual([ahead.result?.outcome, behind.result?.outcome], ["published", "published"]);
  assert.equal((await readChannel(yard, "ab", "nightly"))?.value.version, behind.result?.version);
});

test("the same run published twice at once says so once, and loses to nobody", async () => {
  const yard = newStore();
  const openStore = openerOf(yard);
  await makeYard(yard);
  const deps = testDeps(openStore, { executeMerge: createInThreadExecutor(openStore) });
  const planned = await plan(yard, deps);
  await runUnits(planned, deps);
  const input = { yard: yard.uri, run: planned.run, plannedMs: planned.plannedMs };
  const results = await Promise.all([1, 2, 3].map(() => runStep(publishStep, input, deps)));
  assert.deepEqual(
    results.map(({ outcome }) => outcome),
    ["published", "published", "published"],
  );
  assert.equal(new Set(results.map(({ version }) => version)).size, 1);
  assert.equal((await readChannel(yard, "ab", "nightly"))?.value.history.length, 0);
});
