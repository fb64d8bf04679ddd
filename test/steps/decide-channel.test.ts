// What a person decides about a channel.
import assert from "node:assert/strict";
import { test } from "node:test";
import { layout } from "../../core/artifact/layout.ts";
import { moveChannel } from "../../steps/channel.ts";
import { promote, rollback } from "../../steps/decide-channel.ts";
import { readChannel } from "../../steps/yard.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { newStore, openerOf, putText, testDeps } from "./deps.ts";

const { signal } = new AbortController();
const NIGHTLY = { model: "ab", channel: "nightly" };

/** A yard whose channel `nightly` went through three versions. */
async function threeVersions(): Promise<ObjectStore> {
  const yard = newStore();
  for (const [index, version] of ["v1", "v2", "v3"].entries()) {
    await putText(yard, layout.versionManifest("ab", version), "{}");
    await moveChannel(yard, NIGHTLY, { version, run: `run-${version}`, decidedMs: 10 + index }, signal);
  }
  return yard;
}

const deps = () => testDeps(openerOf());
const current = async (yard: ObjectStore, channel = "nightly") => (await readChannel(yard, "ab", channel))?.value;

test("a version is promoted from one channel to another, which remembers the one before", async () => {
  const yard = await threeVersions();
  assert.deepEqual(await promote(yard, "ab:nightly", "stable", deps()), {
    model: "ab",
    channel: "stable",
    version: "v3",
    before: null,
  });
  assert.equal((await promote(yard, "ab@v1", "stable", deps())).before, "v3");
  const record = await current(yard, "stable");
  assert.deepEqual([record?.version, record?.run, record?.history.length], ["v1", null, 1]);
  await assert.rejects(promote(yard, "ab@v9", "stable", deps()), { code: "YardVersionMissing" });
  await assert.rejects(promote(yard, "ab:weekly", "stable", deps()), { code: "YardChannelMissing" });
  await assert.rejects(promote(yard, "ab@v1", "../x", deps()), { code: "StoreNameInvalid" });
});

test("a person who confirms what is there keeps a run that was planned before from moving it", async () => {
  const yard = await threeVersions();
  await promote(yard, "ab@v3", "nightly", deps());
  const late = { version: "v2", run: "run-late", decidedMs: 500 };
  assert.equal((await moveChannel(yard, NIGHTLY, late, signal)).outcome, "lost");
  assert.equal((await current(yard))?.version, "v3");
});

test("rolling back goes one version back each time, passes over what is gone, and ends", async () => {
  const yard = await threeVersions();
  assert.deepEqual((await rollback(yard, NIGHTLY, undefined, deps())).version, "v2");
  assert.deepEqual((await rollback(yard, NIGHTLY, undefined, deps())).version, "v1");
  await assert.rejects(rollback(yard, NIGHTLY, undefined, deps()), { code: "YardRollbackEnd" });
  assert.equal((await rollback(yard, NIGHTLY, "v3", deps())).before, "v1");
  await yard.delete(layout.versionManifest("ab", "v2"));
  const other = await threeVersions();
  await other.delete(layout.versionManifest("ab", "v2"));
  assert.equal((await rollback(other, NIGHTLY, undefined, deps())).version, "v1");
  await assert.rejects(rollback(yard, { ...NIGHTLY, channel: "none" }, undefined, deps()), {
    code: "YardChannelMissing",
  });
  await assert.rejects(rollback(yard, NIGHTLY, "v2", deps()), { code: "YardVersionMissing" });
});

test("what a run published again is rolled back to the version that it replaced", async () => {
  const yard = await threeVersions();
  await moveChannel(yard, NIGHTLY, { version: "v1", run: "run-v1", decidedMs: 20 }, signal);
  const { version, before } = await rollback(yard, NIGHTLY, undefined, deps());
  assert.deepEqual([version, before], ["v3", "v1"]);
  assert.equal((await rollback(yard, NIGHTLY, undefined, deps())).version, "v2");
  assert.equal((await rollback(yard, NIGHTLY, undefined, deps())).version, "v1", "where it was the first time");
  await assert.rejects(rollback(yard, NIGHTLY, undefined, deps()), { code: "YardRollbackEnd" });
});

test("a version that is removed while it is promoted leaves the channel where it was", async () => {
  const yard = await threeVersions();
  let looks = 0;
  const head: ObjectStore["head"] = async (key, options) => {
    if (key === layout.versionManifest("ab", "v1")) looks += 1;
    return looks > 1 ? undefined : yard.head(key, options);
  };
  await assert.rejects(promote({ ...yard, head }, "ab@v1", "nightly", deps()), { code: "YardVersionMissing" });
  assert.equal((await current(yard))?.version, "v3");
});
