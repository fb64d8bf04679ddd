// The S3 store on a real server: any that MERGEYARD_TEST_S3_ENDPOINT names, in a bucket that the tests may fill.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { test } from "node:test";
import { createFaultyStore } from "../../stores/faulty.ts";
import { writeBytes } from "../../stores/objects.ts";
import { openStore } from "../../stores/open.ts";
import { createRetryStore } from "../../stores/retry.ts";
import { createS3Store } from "../../stores/s3.ts";
import { pickDialect } from "../../stores/s3-dialect.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { conformance, listAll, type OpenedStore, rejectsWith } from "./conformance.ts";
import { patterned } from "./patterned.ts";

const endpoint = process.env.MERGEYARD_TEST_S3_ENDPOINT;
const bucket = process.env.MERGEYARD_TEST_S3_BUCKET ?? "tests";
const dialect = pickDialect(endpoint, process.env.MERGEYARD_S3_DIALECT);
const skip =
  endpoint === undefined
    ? 'no S3 server: eval "$(node tools/s3-server.ts start)" starts one (Debian packages radosgw ceph-mon ceph-osd ' +
      "ceph-common); or name another by MERGEYARD_TEST_S3_ENDPOINT, MERGEYARD_TEST_S3_BUCKET and the AWS_* credentials"
    : undefined;
// Worker threads open the store again from its URI and their environment.
if (endpoint !== undefined) process.env.MERGEYARD_S3_ENDPOINT = endpoint;

async function openUnder(make: (uri: string) => ObjectStore): Promise<OpenedStore> {
  const store = make(`s3://${bucket}/${randomUUID()}`);
  const remove = async () => {
    const infos = await listAll(store);
    for (let start = 0; start < infos.length; start += 32) {
      await Promise.all(infos.slice(start, start + 32).map((info) => store.delete(info.key)));
    }
  };
  return { store, remove };
}

const openBare = (uri: string) => {
  const prefix = new URL(uri).pathname.slice(1);
  return createS3Store({ bucket, prefix, dialect, endpoint, region: process.env.AWS_REGION ?? "us-east-1" });
};

conformance({
  name: "the S3 store",
  open: () => openUnder((uri) => openStore(uri, process.env)),
  hasThreads: true,
  skip,
  listed: 1005,
  concurrency: 4,
  modelRuns: 4,
});

const policy = { attemptsMax: 12, delayMs: 1, delayMsMax: 5, random: () => 0.5 };

conformance({
  name: "the S3 store behind faults and retries",
  open: () =>
    openUnder((uri) => {
      const faults = ["before", "after", "cut", "conflict"] as const;
      return createRetryStore(createFaultyStore(openBare(uri), { seed: 5, rate: 0.1, faults }).store, policy);
    }),
  hasThreads: true,
  losesAnswers: true,
  skip,
  listed: 40,
  concurrency: 4,
  modelRuns: 2,
});

test("a copy beyond what one request takes is made of parts, and refuses a source that changed", {
  skip: skip ?? false,
}, async () => {
  const prefix = randomUUID();
  const small = { ...dialect, copyBytesMax: 11 * 1024 * 1024 };
  const store = createS3Store({ bucket, prefix, dialect: small, endpoint, region: "us-east-1" });
  const content = patterned(23 * 1024 * 1024 + 7);
  await writeBytes(store, "a source/with space+plus", content);
  const info = await store.copy("a source/with space+plus", "target");
  assert.equal(info.bytes, content.byteLength);
  const into = new Uint8Array(content.byteLength);
  await store.readInto("target", 0, into);
  assert.equal(Buffer.compare(into, content), 0);
  for (const { key } of await listAll(store)) await store.delete(key);
});

test("a missing bucket and wrong credentials are named", { skip: skip ?? false }, async () => {
  const region = "us-east-1";
  const nowhere = createS3Store({ bucket: `none-${randomUUID()}`, prefix: "", dialect, endpoint, region });
  await rejectsWith(nowhere.head("a"), "StoreBucketMissing");
  await rejectsWith(nowhere.get("a", 1), "StoreBucketMissing");
  await rejectsWith(nowhere.create("a", patterned(1)), "StoreBucketMissing");
  await rejectsWith(listAll(nowhere), "StoreBucketMissing");
  const credentials = { accessKeyId: "nobody", secretAccessKey: "nothing" };
  const stranger = createS3Store({ bucket, prefix: "", dialect, endpoint, region, credentials });
  await rejectsWith(stranger.get("a", 1), "StoreCredentialsInvalid");
});
