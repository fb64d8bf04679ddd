// kill -9 in the middle of pushes and pulls, on a folder and on a real S3 server where there is one: the same command
// goes on, sends nothing that is there, and ends with the same bytes.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import * as z from "zod";
import { digestBytes } from "../../core/artifact/digest.ts";
import { ticketSchema, UPLOAD_MARKER, uploadMarkerSchema, uploadRecordSchema } from "../../core/artifact/upload.ts";
import { listKeys } from "../../steps/records.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { initYard } from "../../steps/yard.ts";
import { readAll, readJson, writeBytes } from "../../stores/objects.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { testDeps } from "../steps/deps.ts";
import { createInThreadExecutor } from "../steps/in-thread-executor.ts";
import { makeYard, runPipeline } from "../steps/pipeline.ts";
import { putModel } from "../steps/small-model.ts";
import { patterned } from "../stores/patterned.ts";

const CHILD = new URL("transfer-child.ts", import.meta.url).pathname;
const folder = mkdtempSync(join(tmpdir(), "mergeyard-killed-"));
after(() => rmSync(folder, { recursive: true, force: true }));
const LARGE_BYTES = 26 * 2 ** 20;

const endpoint = process.env.MERGEYARD_TEST_S3_ENDPOINT;
const environment: NodeJS.ProcessEnv = {
  ...process.env,
  ...(endpoint === undefined ? {} : { MERGEYARD_S3_ENDPOINT: endpoint }),
};
const bucket = process.env.MERGEYARD_TEST_S3_BUCKET ?? "tests";
const s3 = endpoint === undefined ? "no S3 server: name one by MERGEYARD_TEST_S3_ENDPOINT" : false;

let places = 0;
function newFolder(): string {
  places += 1;
  const path = join(folder, String(places));
  mkdirSync(path);
  return pathToFileURL(path).href;
}

/** The result; undefined when it was killed. */
async function run(task: "push" | "pull" | "convert" | "fetch", yard: string, place: string, at: number) {
  const { NODE_TEST_CONTEXT: _, ...env } = environment;
  const child = spawn(process.execPath, [CHILD, task, yard, place, String(at)], {
    env: { ...env, NODE_COMPILE_CACHE: join(folder, "compile") },
    stdio: ["pipe", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (data: Buffer) => {
    output += data.toString();
  });
  const signal = await new Promise((resolve) => child.once("close", (_status, by) => resolve(by)));
  assert.ok(signal === "SIGKILL" || output !== "", `${task} killed at ${at} ended by itself`);
  return signal === "SIGKILL" ? undefined : JSON.parse(output);
}

/** Bytes of a push that a later one need not send: whole objects, and finished regions of those on their way. */
async function bytesThere(yard: ObjectStore): Promise<number> {
  let bytes = 0;
  for await (const info of yard.list("incoming/chat/")) {
    if (!/\/_(PUSH|COMPLETE)$/.test(info.key)) bytes += info.bytes;
    if (!info.key.endsWith("/_PUSH")) continue;
    const record = await readJson(yard, info.key, uploadRecordSchema, 1e6);
    for (const { ticket } of record.files) {
      if (ticket === undefined || (await yard.head(ticket.key)) !== undefined) continue;
      const found = await yard.recoverRegions(ticket);
      bytes += found.reduce((sum, { index }) => sum + (ticket.regions[index]?.bytes ?? 0), 0);
    }
  }
  return bytes;
}

async function pushKilled(newYard: () => Promise<ObjectStore>, moments: readonly number[]): Promise<void> {
  const source = openStore(newFolder(), {});
  await putModel(source, "", { seed: 1 });
  await writeBytes(source, "optimizer.pt", patterned(LARGE_BYTES));
  let kills = 0;
  for (const at of moments) {
    const yard = await newYard();
    const first = await run("push", yard.uri, source.uri, at);
    if (first === undefined) kills += 1;
    const there = await bytesThere(yard);
    const second = first ?? (await run("push", yard.uri, source.uri, 0));
    if (first === undefined && second.outcome === "committed") {
      assert.equal(second.sentBytes, second.bytes - there, `killed at ${at}`);
    }
    const marker = await readJson(yard, `${second.prefix}${UPLOAD_MARKER}`, uploadMarkerSchema, 1e6);
    for (const { name, bytes, digest } of marker.files) {
      assert.equal(digestBytes(await readAll(yard, second.prefix + name, bytes)), digest, name);
      assert.equal(digestBytes(await readAll(source, name, bytes)), digest, name);
    }
  }
  assert.ok(kills >= moments.length - 1, `${kills} kills`);
}

test("a push into a folder that is killed goes on, sends only what is missing, and digests are equal", async () => {
  const newYard = async () => {
    const yard = openStore(newFolder(), {});
    await initYard(yard);
    return yard;
  };
  await pushKilled(newYard, [3, 14, 30, 40, 44, 49]);
});

const places3: ObjectStore[] = [];
after(async () => {
  for (const place of places3) for await (const { key } of place.list("")) await place.delete(key);
});

/** A place of its own on the S3 server; it is emptied in the end. */
function newPlace(): ObjectStore {
  const place = openStore(`s3://${bucket}/${randomUUID()}`, environment);
  places3.push(place);
  return place;
}

test("a push into S3 that is killed goes on by the parts that are there", { skip: s3 }, async () => {
  const newYard = async () => {
    const yard = newPlace();
    await initYard(yard);
    return yard;
  };
  await pushKilled(newYard, [3, 14, 22, 40, 44, 47]);
});

test("a conversion into S3 that is killed is begun anew over what it left, with equal digests", {
  skip: s3,
}, async () => {
  const source = pathToFileURL(join(import.meta.dirname, "../golden/deepspeed/z1_tp2_pp2_dp2_bf16_tied")).href;
  const whole = await run("convert", source, newPlace().uri, 0);
  let kills = 0;
  for (const at of [2, 5, 9, 13, 17, 21]) {
    const target = newPlace();
    const first = await run("convert", source, target.uri, at);
    if (first === undefined) kills += 1;
    const last = first ?? (await run("convert", source, target.uri, 0));
    assert.deepEqual([last.digest, last.contents], [whole.digest, whole.contents], `killed at ${at}`);
    const files = ["exp_avg.safetensors", "exp_avg_sq.safetensors", "model.safetensors", "universal.json"];
    assert.deepEqual((await listKeys(target, "")).toSorted(), files, `killed at ${at}`);
    assert.equal(digestBytes(await readAll(target, "universal.json", 1e6)), whole.digest);
  }
  assert.ok(kills >= 5, `${kills} kills`);
});

test("a pull that is killed goes on, and the folder is never taken for whole", async () => {
  await pullKilled(openStore(newFolder(), {}));
});

test("a pull from a yard on S3 that is killed goes on, and the folder is never taken for whole", {
  skip: s3,
}, async () => {
  await pullKilled(newPlace());
});

async function pullKilled(yard: ObjectStore): Promise<void> {
  await makeYard(yard);
  const open = (uri: string) => openStore(uri, environment);
  await runPipeline(yard, testDeps(open, { executeMerge: createInThreadExecutor(open) }));
  let kills = 0;
  for (const at of [4, 10, 20, 27]) {
    const place = `${newFolder()}?durable=false`;
    const target = openStore(place, {});
    const verify = () => runStep(verifyStep, { folder: place }, testDeps(open));
    if ((await run("pull", yard.uri, place, at)) === undefined) {
      kills += 1;
      if ((await target.head("manifest.json")) === undefined)
        await assert.rejects(verify(), { code: "YardManifestMissing" });
      else await verify();
      await run("pull", yard.uri, place, 0);
    }
    await verify();
    assert.equal(await target.head(".mergeyard-pull.json"), undefined);
  }
  assert.ok(kills >= 3, `${kills} kills`);
}

/** Bytes of the file on its way whose regions are whole; the record that says where it is must be the only one. */
async function fetchedBytes(target: ObjectStore): Promise<number> {
  const keys = await listKeys(target, ".mergeyard-fetch-");
  const [key] = keys;
  if (key === undefined || (await target.head("large")) !== undefined) return 0;
  assert.equal(keys.length, 1);
  const { ticket } = await readJson(target, key, z.object({ ticket: ticketSchema }), 1e6);
  const found = await target.recoverRegions(ticket);
  return found.reduce((sum, { index }) => sum + (ticket.regions[index]?.bytes ?? 0), 0);
}

async function putLarge(source = openStore(newFolder(), {})) {
  const content = patterned(LARGE_BYTES);
  await writeBytes(source, "large", content);
  return { source, content };
}

test("a file that is fetched when the pull is killed goes on within the file", () => fetchKilled());

test("a file on S3 that is fetched when the pull is killed goes on within the file", { skip: s3 }, () =>
  fetchKilled(newPlace()),
);

async function fetchKilled(place?: ObjectStore): Promise<void> {
  const { source, content } = await putLarge(place);
  const kept: number[] = [];
  for (const at of [4, 11, 15, 18]) {
    const target = openStore(`${newFolder()}?durable=false`, {});
    assert.equal(await run("fetch", source.uri, target.uri, at), undefined, `killed at ${at}`);
    const [isThere, known] = [(await target.head("large")) !== undefined, await fetchedBytes(target)];
    kept.push(known);
    const again = await run("fetch", source.uri, target.uri, 0);
    if (!isThere) assert.deepEqual(again, { known, fetched: LARGE_BYTES - known }, `killed at ${at}`);
    assert.equal(Buffer.compare(await readAll(target, "large", LARGE_BYTES), content), 0);
    assert.equal(await fetchedBytes(target), 0);
  }
  assert.ok(new Set(kept).size > 2 && Math.max(...kept) >= 16 * 2 ** 20, `${kept} bytes were there`);
}

test("a part of a file that was damaged meanwhile is fetched again", async () => {
  const { source, content } = await putLarge();
  const target = openStore(`${newFolder()}?durable=false`, {});
  await run("fetch", source.uri, target.uri, 10);
  assert.ok((await fetchedBytes(target)) > 0);
  const parts = fileURLToPath(new URL(".mergeyard/tmp/", `${new URL(target.uri).href.replace(/\?.*/, "")}/`));
  const part = readdirSync(parts).find((name) => !name.includes(".")) ?? assert.fail();
  const bytes = readFileSync(join(parts, part));
  bytes[100] = (bytes[100] ?? 0) ^ 1;
  writeFileSync(join(parts, part), bytes);
  assert.equal((await run("fetch", source.uri, target.uri, 0)).known, 0);
  assert.equal(Buffer.compare(await readAll(target, "large", LARGE_BYTES), content), 0);
});
