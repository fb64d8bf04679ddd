// The worker's image cannot be built everywhere, so what it is built from is held to what it says: its files exist, its
// bundle runs a unit from a folder that holds nothing else, and the Dockerfile keeps to the linter's rules.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import http from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { layout } from "../../core/artifact/layout.ts";
import { receiptSchema } from "../../core/plan/receipt.ts";
import { readJson } from "../../stores/objects.ts";
import { openStore } from "../../stores/open.ts";
import { bundleWorker } from "../../tools/bundle-worker.ts";
import { testDeps } from "../steps/deps.ts";
import { createInThreadExecutor } from "../steps/in-thread-executor.ts";
import { makeYard, plan, runUnits } from "../steps/pipeline.ts";
import { KNOWN, parseDockerfile, RULES } from "./dockerfile-rules.ts";

const folder = mkdtempSync(path.join(tmpdir(), "mergeyard-bundle-"));
const context = path.join(folder, "context");
let files: readonly string[] = [];

before(async () => {
  files = await bundleWorker(context);
  return () => rmSync(folder, { recursive: true });
});

const dockerfile = () => parseDockerfile(readFileSync(path.join(context, "Dockerfile"), "utf8"));
const all = (name: string) => dockerfile().filter((entry) => entry.name === name);

test("every file that the image copies is in the folder it is built from, and nothing else is", () => {
  const sources = all("COPY").flatMap(({ text }) => {
    const words = text.split(" ").filter((word) => !word.startsWith("--"));
    return words.slice(0, -1);
  });
  assert.deepEqual(sources, ["worker/"]);
  assert.deepEqual(readdirSync(context).sort(), ["Dockerfile", "worker"]);
  for (const file of files) assert.ok(existsSync(path.join(context, file)), file);
  const [entry] = all("ENTRYPOINT");
  const command: unknown = JSON.parse(entry?.text ?? "");
  assert.deepEqual(command, ["node", "/opt/mergeyard/main.mjs"]);
  assert.ok(files.includes("worker/main.mjs"));
  assert.deepEqual(
    files.filter((file) => !file.endsWith(".mjs")),
    ["Dockerfile", "worker/kernels.wasm"],
  );
});

test("the Dockerfile keeps to the rules of its linter", () => {
  const file = dockerfile();
  for (const { name } of file) assert.ok(KNOWN.includes(name), `${name}: not an instruction we use`);
  for (const { id, says, broken } of RULES) assert.deepEqual(broken(file), [], `${id}: ${says}`);
  const [node] = all("ARG");
  assert.equal(`v${node?.text.split("=")[1]}`, process.version, "the image runs what the tests run");
  const order = file.map(({ name }) => name);
  assert.ok(order.indexOf("USER") > order.lastIndexOf("COPY"), "code belongs to root, the worker cannot change it");
});

/** A Dockerfile for each rule that breaks it. */
const BAD: Readonly<Record<string, string>> = {
  DL3000: "WORKDIR app",
  DL3002: "USER node\nUSER root",
  DL3003: "RUN cd /app && make",
  DL3004: "RUN sudo make",
  DL3005: "RUN apt-get update && apt-get dist-upgrade",
  DL3006: `ARG V=24\nFROM node:\${V}-slim`,
  DL3007: "FROM node:latest",
  DL3009: "RUN apt-get update && apt-get install --yes --no-install-recommends curl",
  DL3014: "RUN apt-get install --no-install-recommends curl",
  DL3015: "RUN apt-get install --yes curl",
  DL3021: "COPY a b /app",
  DL3025: "ENTRYPOINT node main.mjs",
  DL3027: "RUN apt install curl",
  DL3045: "COPY worker/ ./\nWORKDIR /app",
  DL3059: "RUN make\nRUN make install",
  DL3061: "RUN make",
  DL4003: 'ENTRYPOINT ["node"]\nCMD ["main.mjs"]\nCMD ["other.mjs"]',
  DL4006: "RUN wget -O - https://example.com | tar x",
};

test("each rule of the Dockerfile's linter can be broken", () => {
  assert.deepEqual(
    RULES.map(({ id }) => id),
    Object.keys(BAD),
  );
  for (const { id, broken } of RULES) assert.ok(broken(parseDockerfile(BAD[id] ?? "")).length > 0, id);
});

const opener = (store: string) => openStore(store, {});

/** A yard whose units are done up to the merging ones. */
async function adoptedYard(name: string) {
  const uri = pathToFileURL(path.join(folder, name)).href;
  await makeYard(opener(uri));
  const deps = testDeps(opener, { executeMerge: createInThreadExecutor(opener) });
  const planned = await plan(opener(uri), deps);
  const merging = planned.stages.filter(({ kind }) => kind === "apply");
  await runUnits({ ...planned, stages: planned.stages.filter(({ kind }) => kind === "shard") }, deps);
  const [stage] = merging;
  assert.ok(stage !== undefined && merging.length === 1);
  const digestOf = async () => {
    const receipt = await readJson(opener(uri), layout.receipt(planned.run, stage.index, 0), receiptSchema, 1_000_000);
    return receipt.file?.digest;
  };
  return { uri, planned: { ...planned, stages: [{ ...stage, units: 1 }] }, stage, deps, digestOf };
}

test("the bundle alone, in a folder without node_modules, merges to the same bytes as the sources", async () => {
  const alone = path.join(folder, "alone");
  cpSync(path.join(context, "worker"), alone, { recursive: true });
  const [here, there] = [await adoptedYard("here"), await adoptedYard("there")];
  await runUnits(here.planned, here.deps);
  const { uri, planned, stage } = there;
  const variables = { MERGEYARD_YARD: uri, MERGEYARD_RUN: planned.run, MERGEYARD_STAGE: String(stage.index) };
  const size = { MERGEYARD_JOBS: String(stage.units), MERGEYARD_THREADS: "2", AWS_BATCH_JOB_ARRAY_INDEX: "0" };
  const ended = await runWorker(path.join(alone, "main.mjs"), { ...variables, ...size });
  assert.equal(ended.status, 0, ended.stdout + ended.stderr);
  assert.match(ended.stdout, /"event":"unit-finished".*"op":"merge"/);
  assert.equal(ended.stderr, "");
  assert.equal(await there.digestOf(), await here.digestOf());
});

test("the bundle's S3 client loads from the bundle and asks its endpoint", async () => {
  const asked: string[] = [];
  const server = http.createServer((request, response) => {
    asked.push(`${request.method} ${request.url?.split("?")[0]}`);
    response.writeHead(403, { "content-type": "application/xml" });
    response.end("<Error><Code>AccessDenied</Code><Message>no</Message></Error>");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address() as AddressInfo;
  const ended = await runWorker(path.join(context, "worker/main.mjs"), {
    MERGEYARD_YARD: "s3://some-bucket",
    MERGEYARD_RUN: "r",
    MERGEYARD_STAGE: "0",
    AWS_ENDPOINT_URL_S3: `http://127.0.0.1:${address.port}`,
    AWS_ACCESS_KEY_ID: "a",
    AWS_SECRET_ACCESS_KEY: "b",
  });
  server.close();
  assert.match(ended.stdout, /"code":"StoreAccessDenied"/, ended.stdout + ended.stderr);
  assert.equal(ended.status, 1);
  // The second asks whether the object is there at all, since who may not list is denied what is missing.
  assert.deepEqual(asked, ["GET /some-bucket/yard.json", "GET /some-bucket/"]);
});

function runWorker(file: string, env: Readonly<Record<string, string>>) {
  const child = spawn(process.execPath, [file], { cwd: path.dirname(file), env, stdio: ["ignore", "pipe", "pipe"] });
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      output[name] += text;
    });
  }
  return new Promise<{ status: number | null; stdout: string; stderr: string }>((resolve, reject) => {
    child.once("error", reject).once("close", (status) => resolve({ status, ...output }));
  });
}
