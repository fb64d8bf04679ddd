// The pipeline between itself and a real S3 server: a proxy that slows down, drops connections and cuts bodies, a
// server that is full or refuses credentials, and many who publish at once. Each ends in success or in one clear error,
// and what was published before stays as it was.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import http from "node:http";
import { after, test } from "node:test";
import { checkStep } from "../../steps/check.ts";
import { publishStep } from "../../steps/publish.ts";
import { runStep } from "../../steps/step.ts";
import { verifyStep } from "../../steps/verify.ts";
import { readChannel } from "../../steps/yard.ts";
import { openStore } from "../../stores/open.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { listen } from "../listen.ts";
import { putText, testDeps } from "../steps/deps.ts";
import { createInThreadExecutor } from "../steps/in-thread-executor.ts";
import { makeYard, plan, recipe, runPipeline, runUnits } from "../steps/pipeline.ts";

const server = process.env.MERGEYARD_TEST_S3_ENDPOINT ?? "";
const bucket = process.env.MERGEYARD_TEST_S3_BUCKET ?? "tests";
const skip = server === "" ? "no S3 server: see test/stores/s3.test.ts" : undefined;

const opener = (endpoint: string) => {
  const env = { ...process.env, MERGEYARD_S3_ENDPOINT: endpoint };
  const stores = new Map<string, ObjectStore>();
  return (uri: string) => {
    const store = stores.get(uri) ?? openStore(uri, env);
    stores.set(uri, store);
    return store;
  };
};

/** A yard of its own on the server, removed at the end. */
async function newYard(): Promise<ObjectStore> {
  const yard = opener(server)(`s3://${bucket}/${randomUUID()}`);
  after(async () => {
    for await (const { key } of yard.list("")) await yard.delete(key);
  });
  await makeYard(yard);
  return yard;
}

type Fault = "pass" | "slow-down" | "drop" | "cut" | "full" | "expired";

/** A proxy before the server; `next` says what becomes of each request. */
async function startProxy(next: (method: string, count: number) => Fault): Promise<string> {
  const { hostname, port } = new URL(server);
  let count = 0;
  const proxy = http.createServer((request, response) => {
    const { method = "GET", url, headers } = request;
    count += 1;
    const fault = next(method, count);
    if (fault === "drop") return void request.socket.destroy();
    const answer = ERRORS[fault];
    if (answer !== undefined) {
      request.resume();
      const [status, code] = answer;
      const body = method === "HEAD" ? "" : `<Error><Code>${code}</Code><Message>played</Message></Error>`;
      return void response.writeHead(status, { "content-type": "application/xml" }).end(body);
    }
    const forward = http.request({ hostname, port, method, path: url, headers }, (reply) => {
      response.writeHead(reply.statusCode ?? 502, reply.headers);
      if (fault === "pass" || Number(reply.headers["content-length"] ?? 0) < 2) return void reply.pipe(response);
      // Half of the body, then nothing.
      reply.once("data", (piece: Buffer) => {
        response.write(piece.subarray(0, Math.floor(piece.length / 2)));
        setTimeout(() => response.destroy(), 5);
      });
    });
    forward.on("error", () => response.destroy());
    request.pipe(forward);
  });
  // The server checks signatures, which name the host that the client spoke to.
  return listen(proxy);
}

const ERRORS: Readonly<Partial<Record<Fault, readonly [number, string]>>> = {
  "slow-down": [503, "SlowDown"],
  full: [403, "QuotaExceeded"],
  expired: [400, "ExpiredToken"],
};

function depsAt(endpoint: string) {
  const openStores = opener(endpoint);
  return testDeps(openStores, { executeMerge: createInThreadExecutor(openStores), now: Date.now });
}

async function publishedVersion(yard: ObjectStore): Promise<string | undefined> {
  return (await readChannel(yard, "ab", "nightly"))?.value.version;
}

const verify = (yard: ObjectStore, version: string) =>
  runStep(verifyStep, { folder: `${yard.uri}/artifacts/ab/${version}`, version }, depsAt(server));

const PASSING: readonly (readonly [string, Fault])[] = [
  ["a server that answers 503 SlowDown", "slow-down"],
  ["a server that drops connections", "drop"],
  ["a server that cuts bodies short", "cut"],
];

for (const [what, kind] of PASSING) {
  test(`${what} changes nothing but the time`, { skip }, async () => {
    const yard = await newYard();
    let faults = 0;
    const endpoint = await startProxy((method, count) => {
      // Of a write nothing comes back that could be cut.
      if (count % 7 !== 0 || (kind === "cut" && method !== "GET")) return "pass";
      faults += 1;
      return kind;
    });
    const { result } = await runPipeline(yard, depsAt(endpoint));
    assert.ok(faults > 5, `${faults} faults`);
    assert.equal(result?.outcome, "published");
    await verify(yard, result?.version ?? "");
    const calm = await newYard();
    assert.equal((await runPipeline(calm, depsAt(server))).result?.version, result?.version, "the same bytes");
  });
}

const LASTING: readonly (readonly [string, Fault, string])[] = [
  ["a full bucket ends", "full", "StoreFull"],
  ["expired credentials end", "expired", "StoreCredentialsInvalid"],
];

for (const [what, kind, code] of LASTING) {
  test(`${what} a run in one error that says so, and what is published stays`, { skip }, async () => {
    const yard = await newYard();
    const before = (await runPipeline(yard, depsAt(server))).result?.version ?? "";
    await putText(yard, "pipelines/small.yaml", recipe(0.25));
    for (const from of [1, 2, 12]) {
      let writes = 0;
      const endpoint = await startProxy((method, count) => {
        if (kind === "expired") return count >= from * 4 ? kind : "pass";
        const isWrite = method === "PUT" || method === "POST";
        writes += isWrite ? 1 : 0;
        return isWrite && writes >= from ? kind : "pass";
      });
      await assert.rejects(runPipeline(yard, depsAt(endpoint)), { code });
      assert.equal(await publishedVersion(yard), before);
      await verify(yard, before);
    }
    const { result } = await runPipeline(yard, depsAt(server));
    assert.equal(result?.outcome, "published", "once that is mended, the run goes on");
  });
}

test("32 publishers at once leave whole versions, and the run planned last is current", { skip }, async () => {
  const yard = await newYard();
  const deps = () => depsAt(server);
  const runs: { readonly yard: string; readonly run: string; readonly plannedMs: number }[] = [];
  for (const weight of [0.1, 0.2, 0.3, 0.4]) {
    await putText(yard, "pipelines/small.yaml", recipe(weight));
    const planned = await plan(yard, deps());
    await runUnits(planned, deps());
    const { run, plannedMs } = planned;
    await runStep(checkStep, { yard: planned.yard, run }, deps());
    runs.push({ yard: planned.yard, run, plannedMs });
  }
  const racers = Array.from({ length: 32 }, (_, index) => runs.slice(index % runs.length)[0]).filter((run) => !!run);
  const ends = await Promise.all(racers.map((racer) => runStep(publishStep, racer, deps())));
  const current = await publishedVersion(yard);
  for (const version of new Set(ends.map((end) => end.version))) await verify(yard, version ?? "");
  const winners = ends.filter((_, index) => racers[index]?.run === runs.at(-1)?.run);
  assert.ok(winners.length === 8 && winners.every(({ version }) => version === current));
  const losers = ends.filter(({ outcome }) => outcome === "lost-race");
  for (const { version, current: seen } of losers) assert.notEqual(version, seen?.version, "a loser says who won");
});
