// The reader of stored zip archives: what it finds, and one refusal for each thing that torch never writes.
import assert from "node:assert/strict";
import { suite, test } from "node:test";
import { readZip } from "../../../core/formats/torch/zip.ts";
import { ZIP_LIMITS } from "../../../core/limits.ts";
import { fileOf, readerOf, zipOf } from "./torch-parts.ts";

const data = (length: number) => new Uint8Array(length).fill(7);
const read = (bytes: Uint8Array) => readZip(readerOf(bytes), fileOf(bytes));

suite("reading a zip archive", () => {
  test("gives every entry as the range of its bytes", async () => {
    const bytes = zipOf([
      { name: "a/data.pkl", data: Buffer.from("hello") },
      { name: "a/data/0", data: data(100_000) },
      { name: "a/empty", data: data(0) },
    ]);
    const entries = await read(bytes);
    assert.deepEqual([...entries.keys()], ["a/data.pkl", "a/data/0", "a/empty"]);
    const entry = entries.get("a/data.pkl");
    assert.equal(Buffer.from(bytes.slice(entry?.offset, (entry?.offset ?? 0) + 5)).toString(), "hello");
    assert.equal(entries.get("a/data/0")?.bytes, 100_000);
    assert.equal(entries.get("a/empty")?.bytes, 0);
  });

  test("finds the end record behind a comment", async () => {
    const bytes = Buffer.concat([zipOf([{ name: "x", data: data(3) }]), Buffer.from("comment")]);
    bytes.writeUInt16LE(7, bytes.length - 9);
    assert.equal((await read(bytes)).get("x")?.bytes, 3);
  });

  test("believes the zip64 end record, not the one that it stands before", async () => {
    const plain = Buffer.from(zipOf([{ name: "x", data: data(3) }]));
    const end = plain.subarray(plain.length - 22);
    const end64 = Buffer.alloc(56);
    end64.writeUInt32LE(0x06064b50, 0);
    end64.writeBigUInt64LE(1n, 24);
    end64.writeBigUInt64LE(1n, 32);
    end64.writeBigUInt64LE(BigInt(end.readUInt32LE(12)), 40);
    end64.writeBigUInt64LE(BigInt(end.readUInt32LE(16)), 48);
    const locator = Buffer.alloc(20);
    locator.writeUInt32LE(0x07064b50, 0);
    locator.writeBigUInt64LE(BigInt(plain.length - 22), 8);
    const wrongEnd = Buffer.from(end);
    wrongEnd.writeUInt32LE(0xffffffff, 16);
    const bytes = Buffer.concat([plain.subarray(0, plain.length - 22), end64, locator, wrongEnd]);
    assert.equal((await read(bytes)).get("x")?.bytes, 3);
    bytes.writeUInt32LE(0, plain.length - 22); // the record's signature is gone
    await assert.rejects(read(bytes), { code: "ZipInvalid" });
  });

  test("refuses what torch never writes, each with its own code", async () => {
    const one = (part: object) => zipOf([{ name: "x", data: data(3), ...part }]);
    await assert.rejects(read(one({ method: 8 })), { code: "ZipEntryCompressed" });
    await assert.rejects(read(one({ flags: 1 })), { code: "ZipEntryEncrypted" });
    for (const name of ["../x", "a/../x", "/x", "a\\x", "a\0x", ""]) {
      await assert.rejects(read(one({ name })), { code: "ZipEntryNameInvalid" }, JSON.stringify(name));
    }
    const twice = [0, 1].map(() => ({ name: "x", data: data(3) }));
    await assert.rejects(read(zipOf(twice)), { code: "ZipEntryRepeated" });
    await assert.rejects(read(one({ localName: "y" })), { code: "ZipInvalid" });
    await assert.rejects(read(one({}).slice(0, 40)), { code: "ZipEndMissing" });
  });

  test("refuses entries that overlap, though each is inside the file", async () => {
    const bytes = Buffer.from(
      zipOf([
        { name: "x", data: data(8) },
        { name: "y", data: data(8) },
      ]),
    );
    const central = bytes.readUInt32LE(bytes.length - 6);
    bytes.writeUInt32LE(20, central + 20);
    bytes.writeUInt32LE(20, central + 24);
    await assert.rejects(read(bytes), { code: "ZipInvalid" });
  });

  test("allocates nothing for a directory that is larger than any", async () => {
    const bytes = Buffer.alloc(200);
    bytes.writeUInt32LE(0x06054b50, 178);
    bytes.writeUInt16LE(0, 186);
    bytes.writeUInt32LE(0, 190);
    const huge = { name: "huge.pt", bytes: ZIP_LIMITS.directoryBytes * 4 };
    bytes.writeUInt32LE(ZIP_LIMITS.directoryBytes + 1, 190);
    const readTail = async (offset: number, length: number) => {
      assert.ok(length < 100_000, `${length} bytes asked for`);
      const window = new Uint8Array(length);
      window.set(bytes.subarray(178), huge.bytes - 22 - offset);
      return window;
    };
    await assert.rejects(readZip(readTail, huge), { code: "ZipTooLarge" });
  });
});
