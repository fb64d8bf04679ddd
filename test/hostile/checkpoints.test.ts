// Damaged checkpoints. Goal: whatever the bytes, opening a folder ends with a checkpoint that holds together or with
// one typed refusal, never with another exception, a read beyond a file, or time out of proportion. Method: seeded
// damage to every valid golden file and to the documents beside it, half of the headers with their length set right
// again so that the damage reaches the checks behind it.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { suite, test } from "node:test";
import { buildManifest, encodeManifest } from "../../core/artifact/manifest.ts";
import { adoptSafetensors, encodeUniversal } from "../../core/artifact/universal.ts";
import type { Checkpoint } from "../../core/checkpoint.ts";
import { MergeyardError } from "../../core/error.ts";
import { describeByManifest } from "../../core/formats/published.ts";
import { recogniseFormat } from "../../core/formats/registry.ts";
import { tensorBytes } from "../../core/tensor.ts";
import { listText, makeTensorFile } from "../core/artifact/parts.ts";
import { diskFolder, memoryFolder } from "../core/formats/folder.ts";
import { withinBounds } from "./bounds.ts";
import { createPicker, mutate } from "./mutate.ts";

const VALID = join(import.meta.dirname, "../golden/safetensors/valid");
const ROUNDS = 1500;
/** CPU seconds for one damaged folder of a few kilobytes: a thousand times what it takes. */
const SECONDS_MAX = 1;

type Files = Readonly<Record<string, Uint8Array>>;

/** Opens the files as a folder; undefined when it was refused with a typed error that names a place. */
async function open(files: Files): Promise<Checkpoint | undefined> {
  const folder = memoryFolder(files);
  try {
    const opening = async () => describeByManifest(folder, await recogniseFormat(folder.files).open(folder));
    return (await withinBounds("a folder", SECONDS_MAX, opening)).checkpoint;
  } catch (error) {
    assert.ok(error instanceof MergeyardError, error instanceof Error ? error.stack : String(error));
    assert.match(error.code, /^(Safetensors|Checkpoint|Universal|Manifest)/);
    assert.equal(error.retryable, false);
    assert.ok(error.message.length < 3000, "an error is not a copy of the file");
    return undefined;
  } finally {
    const sizes = new Map(folder.files.map(({ name, bytes }) => [name, bytes]));
    for (const { file, offset, bytes } of folder.reads) assert.ok(offset + bytes <= (sizes.get(file) ?? 0));
  }
}

/** Entries lie inside their files, fill them to the end, and agree with the header as JSON.parse sees it. */
function assertConsistent(checkpoint: Checkpoint, files: Files): void {
  for (const { name, bytes } of checkpoint.tensorFiles) {
    const content = Buffer.from(files[name] ?? assert.fail());
    const length = Number(content.readBigUInt64LE(0));
    const header: Record<string, unknown> = JSON.parse(content.subarray(8, 8 + length).toString());
    let position = 8 + length;
    for (const { name: tensor, dtype, shape, ranges } of checkpoint.tensors) {
      const [range] = ranges;
      assert.ok(range !== undefined && ranges.length === 1);
      if (range.file !== name) continue;
      assert.equal(range.offset, position);
      assert.equal(range.bytes, tensorBytes(dtype, shape));
      position += range.bytes;
      assert.ok(Object.hasOwn(header, tensor));
    }
    assert.equal(position, bytes);
  }
}

/** The file with its header length set to what is between it and `dataBytes` bytes of data. */
function reframe(file: Uint8Array, dataBytes: number): Uint8Array {
  const framed = file.slice();
  if (framed.length < 8) return framed;
  const length = Math.max(0, framed.length - 8 - dataBytes);
  new DataView(framed.buffer).setBigUint64(0, BigInt(length), true);
  return framed;
}

function dataBytesOf(file: Uint8Array): number {
  return file.length - 8 - Number(Buffer.from(file).readBigUInt64LE(0));
}

async function fuzz(
  seed: number,
  rounds: number,
  damaged: (pick: (bound: number) => number) => Files,
): Promise<number> {
  const pick = createPicker(seed);
  let opened = 0;
  for (let round = 0; round < rounds; round += 1) {
    const files = damaged(pick);
    const checkpoint = await open(files);
    if (checkpoint === undefined) continue;
    assertConsistent(checkpoint, files);
    opened += 1;
  }
  return opened;
}

suite("damaged safetensors files", () => {
  const names = readdirSync(VALID).filter((name) => name.endsWith(".safetensors"));
  assert.ok(names.length >= 8);
  for (const [index, name] of names.entries()) {
    test(`${name} opens or is refused, ${ROUNDS} times`, async () => {
      const whole = new Uint8Array(readFileSync(join(VALID, name)));
      const dataBytes = dataBytesOf(whole);
      const opened = await fuzz(1000 + index, ROUNDS, (pick) => {
        const damaged = mutate(whole, pick);
        return { "model.safetensors": pick(2) === 0 ? damaged : reframe(damaged, dataBytes) };
      });
      assert.ok(opened < ROUNDS, "some damage is noticed");
    });
  }
});

suite("damaged folders", () => {
  test("shards and index open or are refused", async () => {
    const folder = diskFolder(join(VALID, "sharded"));
    const whole: Record<string, Uint8Array> = {};
    for (const { name, bytes } of folder.files) whole[name] = await folder.read(name, 0, bytes);
    const names = Object.keys(whole);
    const opened = await fuzz(1, ROUNDS, (pick) => {
      const name = names[pick(names.length)] ?? assert.fail();
      return { ...whole, [name]: mutate(whole[name] ?? assert.fail(), pick) };
    });
    assert.ok(opened > 0 && opened < ROUNDS);
  });

  const model = makeTensorFile("model.safetensors", [
    { name: "a", dtype: "F32", shape: [2] },
    { name: "b", dtype: "BF16", shape: [3, 1] },
  ]);
  const config = '{"model_type":"llama","hidden_size":128}';
  const sideFiles = [listText("config.json", config)];
  const plain = { "model.safetensors": model.bytes, "config.json": new TextEncoder().encode(config) };
  const manifest = buildManifest({
    model: "m",
    engine: "0.1.0",
    method: "linear",
    recipe: "merge_method: linear\n",
    inputs: [],
    files: [model.listing, ...sideFiles],
  });
  const documents: readonly (readonly [string, Uint8Array])[] = [
    ["universal.json", encodeUniversal(adoptSafetensors([model.listing], sideFiles))],
    ["manifest.json", encodeManifest(manifest)],
    ["config.json", plain["config.json"]],
  ];
  for (const [index, [name, document]] of documents.entries()) {
    test(`a folder with a damaged ${name} opens or is refused`, async () => {
      const opened = await fuzz(50 + index, ROUNDS, (pick) => ({ ...plain, [name]: mutate(document, pick) }));
      assert.ok(opened < ROUNDS, "some damage is noticed");
    });
  }
});
