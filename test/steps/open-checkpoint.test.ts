// Opening checkpoints in a store: what is listed and read, the identity without reading weights, and errors that name
// the store and the key.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { adoptSafetensors, checkpointDigest, encodeUniversal } from "../../core/artifact/universal.ts";
import { fingerprintFiles, openCheckpoint, openCheckpointFile } from "../../steps/open-checkpoint.ts";
import { createMemoryStore } from "../../stores/memory.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { makeTensorFile } from "../core/artifact/parts.ts";
import { refusal } from "../refusal.ts";

const model = makeTensorFile("model.safetensors", [{ name: "a", dtype: "F32", shape: [1000] }]);
let stores = 0;

/** A store that holds these objects and counts the bytes that are read from it. */
async function makeStore(objects: Readonly<Record<string, Uint8Array | string>>) {
  stores += 1;
  const store = createMemoryStore(`open-checkpoint-${stores}`);
  for (const [key, content] of Object.entries(objects)) {
    await store.create(key, typeof content === "string" ? new TextEncoder().encode(content) : content);
  }
  const reads: [string, number][] = [];
  const counted: ObjectStore = {
    ...store,
    readInto: async (key, offset, into, options) => {
      reads.push([key, into.length]);
      return store.readInto(key, offset, into, options);
    },
  };
  return { store: counted, reads };
}

suite("opening a checkpoint in a store", () => {
  test("reads the header and config of the named folder only", async () => {
    const { store, reads } = await makeStore({
      "models/x/model.safetensors": model.bytes,
      "models/x/config.json": "{}",
      "models/x/below/model.safetensors": "junk",
      "models/y/model.safetensors": "junk",
    });
    const { checkpoint, warnings } = await openCheckpoint(store, "models/x/");
    assert.deepEqual(
      checkpoint.tensors.map(({ name, ranges }) => [name, ranges[0]?.file]),
      [["a", "model.safetensors"]],
    );
    assert.deepEqual(checkpoint.sideFiles, [{ name: "config.json", bytes: 2 }]);
    assert.deepEqual(warnings, []);
    assert.deepEqual(reads, [
      ["models/x/model.safetensors", model.bytes.length],
      ["models/x/config.json", 2],
    ]);
  });

  test("fingerprints the files that it uses by name, size and ETag", async () => {
    const { store } = await makeStore({ "model.safetensors": model.bytes });
    const { fingerprint, digest } = await openCheckpoint(store, "");
    const info = await store.head("model.safetensors");
    assert.ok(info !== undefined);
    assert.equal(digest, undefined);
    assert.equal(fingerprint, fingerprintFiles([{ name: "model.safetensors", bytes: info.bytes, etag: info.etag }]));
    await store.create("_COMPLETE", new Uint8Array());
    assert.equal((await openCheckpoint(store, "")).fingerprint, fingerprint, "a marker changes nothing");
    await store.create("config.json", new TextEncoder().encode("{}"));
    assert.notEqual((await openCheckpoint(store, "")).fingerprint, fingerprint, "a side file does");
  });

  test("takes a document's digest for the fingerprint", async () => {
    const universal = adoptSafetensors([model.listing], []);
    const { store } = await makeStore({
      "c/model.safetensors": model.bytes,
      "c/universal.json": encodeUniversal(universal),
    });
    const { fingerprint, checkpoint } = await openCheckpoint(store, "c/");
    assert.equal(fingerprint, checkpointDigest(universal));
    assert.equal(checkpoint.tensors[0]?.digest, model.listing.tensors[0]?.digest);
  });

  test("passes over the empty objects that consoles make for folders", async () => {
    const { store } = await makeStore({ "m/model.safetensors": model.bytes });
    const list: ObjectStore["list"] = async function* (prefix, options) {
      yield { key: "m/", bytes: 0, etag: "", modifiedMs: 0 };
      yield* store.list(prefix, options);
    };
    assert.equal((await openCheckpoint({ ...store, list }, "m/")).checkpoint.tensors.length, 1);
  });

  test("stops listing a place that cannot be one checkpoint", async () => {
    const { store } = await makeStore({});
    const list: ObjectStore["list"] = async function* () {
      for (let index = 0; ; index += 1) yield { key: `x/${index}.txt`, bytes: 1, etag: "", modifiedMs: 0 };
    };
    await assert.rejects(openCheckpoint({ ...store, list }, "x/"), { code: "CheckpointTooManyFiles" });
  });

  test("names the store and the key in every error", async () => {
    const { store } = await makeStore({ "m/model.safetensors": model.bytes.slice(0, -1), "n/notes.txt": "x" });
    const placed = (code: string, file: string) => refusal({ code, store: store.uri, file });
    await assert.rejects(openCheckpoint(store, "m/"), placed("SafetensorsDataTruncated", "m/model.safetensors"));
    await assert.rejects(openCheckpoint(store, "n/"), placed("CheckpointFormatUnknown", "n/"));
    await assert.rejects(openCheckpoint(store, "empty/"), placed("CheckpointEmpty", "empty/"));
    await assert.rejects(
      openCheckpointFile(store, "m/no.safetensors"),
      placed("CheckpointFileMissing", "m/no.safetensors"),
    );
  });

  test("stops when it is told to", async () => {
    const { store } = await makeStore({ "m/model.safetensors": model.bytes });
    await assert.rejects(openCheckpoint(store, "m/", AbortSignal.abort()));
  });
});

suite("opening one file", () => {
  test("looks at nothing beside it", async () => {
    const { store, reads } = await makeStore({
      "m/x.safetensors": model.bytes,
      "m/y.safetensors": "junk",
      "m/config.json": "junk",
    });
    const { checkpoint, fingerprint } = await openCheckpointFile(store, "m/x.safetensors");
    assert.deepEqual(checkpoint.tensorFiles, [{ name: "x.safetensors", bytes: model.bytes.length }]);
    assert.deepEqual([checkpoint.sideFiles, checkpoint.config], [[], undefined]);
    assert.match(fingerprint, /^sha256:/);
    assert.deepEqual(reads, [["m/x.safetensors", model.bytes.length]]);
  });

  test("refuses a file of another kind", async () => {
    const { store } = await makeStore({ "x.h5": "\x89HDF" });
    await assert.rejects(openCheckpointFile(store, "x.h5"), { code: "CheckpointFormatUnsupported" });
  });
});

test("a fingerprint does not depend on the order of the listing", () => {
  const files = [
    { name: "a", bytes: 1, etag: "x" },
    { name: "b", bytes: 2, etag: "y" },
  ];
  assert.equal(fingerprintFiles(files), fingerprintFiles([...files].reverse()));
  assert.notEqual(fingerprintFiles(files), fingerprintFiles([{ name: "a", bytes: 1, etag: "z" }]));
});
