// The variant of a distributed checkpoint that Hugging Face's writer makes with save_sharded: safetensors files of
// ranks, whose metadata says at which offsets of the whole tensor each part lies. There is no document beside them; the
// whole size is how far the parts reach.
// Source: reference checkpoint-formats.md section 6.1.
import * as z from "zod";
import type { CheckpointFile, FolderReader, TensorEntry } from "../../checkpoint.ts";
import { MergeyardError } from "../../error.ts";
import { parseAs } from "../../parse-as.ts";
import { type Shape, tensorBytes } from "../../tensor.ts";
import { findTilingProblem, wholeBox } from "../../universal/box.ts";
import { type ConversionParameter, plainParameter } from "../../universal/conversion.ts";
import { type OpenedCheckpoint, openedInPieces } from "../format.ts";
import { parseJsonDocument } from "../json-scan.ts";
import { readHeaders } from "../safetensors/folder.ts";
import { readSideFiles, topLevelFiles } from "../side-files.ts";

/** `shard-00002-model-00001-of-00001.safetensors`: rank's shard, file, files. */
const SHARD_FILE = /^shard-(\d{5,})-model-(\d{5,})-of-(\d{5,})\.safetensors$/;
const SHARDING_KEY = "DCP_SHARDING_INFO";

const shardingSchema = z.record(z.string(), z.object({ saved_offsets: z.array(z.int().nonnegative()) }));

/** True when a folder holds such shards. */
export function hasShardFiles(files: readonly CheckpointFile[]): boolean {
  return files.some(({ name }) => SHARD_FILE.test(name));
}

type Part = { readonly entry: TensorEntry; readonly offsets: Shape };

/** Throws Safetensors codes, DcpFileMissing, DcpMetadataInvalid, DcpChunkMismatch, DcpChunksInvalid. */
export async function openShardedSafetensors(folder: FolderReader): Promise<OpenedCheckpoint> {
  const files = topLevelFiles(folder.files).filter(({ name }) => SHARD_FILE.test(name));
  checkShards(files);
  const headers = await readHeaders(folder, files);
  const parts = new Map<string, Part[]>();
  headers.forEach((header, index) => {
    const file = files[index]?.name ?? "";
    const sharding = readSharding(header.metadata.get(SHARDING_KEY), file);
    for (const entry of header.tensors) {
      const offsets = sharding.get(entry.name);
      if (offsets === undefined || offsets.length !== entry.shape.length) {
        const where = { file, tensor: entry.name };
        throw new MergeyardError("DcpMetadataInvalid", {
          where,
          found: `offsets [${offsets ?? ""}]`,
          expected: "an offset for every axis",
        });
      }
      const own = parts.get(entry.name);
      if (own === undefined) parts.set(entry.name, [{ entry, offsets }]);
      else own.push({ entry, offsets });
    }
  });
  const parameters = [...parts].map(([name, own]) => joinParts(name, own));
  const { sideFiles, config, warnings } = await readSideFiles(folder, files);
  return openedInPieces({ format: "dcp", tensorFiles: files, sideFiles, config }, parameters, warnings);
}

/** Shards are numbered from 1 without gaps, and every file of a shard is there. */
function checkShards(files: readonly CheckpointFile[]): void {
  const numbers = files.map(({ name }) => (SHARD_FILE.exec(name) ?? []).slice(1).map(Number));
  const shards = Math.max(...numbers.map(([shard = 0]) => shard));
  const count = numbers[0]?.[2] ?? 0;
  const isWhole = numbers.every(([, file = 0, of]) => of === count && file >= 1 && file <= count);
  const present = new Set(numbers.map(([shard, file]) => `${shard} ${file}`)).size;
  const named = new Set(numbers.map(([shard]) => shard));
  if (isWhole && named.size === shards && !named.has(0) && present <= shards * count) return;
  const found = `${named.size} shards up to number ${shards}`;
  throw new MergeyardError("DcpFileMissing", {
    where: { file: files[0]?.name },
    found,
    expected: "every shard from 1 on",
  });
}

function readSharding(text: string | undefined, file: string): ReadonlyMap<string, Shape> {
  const where = { file, field: SHARDING_KEY };
  const refuse = (found: string, expected: string) =>
    new MergeyardError("DcpMetadataInvalid", { where, found, expected });
  if (text === undefined) throw refuse("no sharding info", SHARDING_KEY);
  const value = parseJsonDocument(new TextEncoder().encode(text), {
    refuse: ({ found, expected }) => refuse(found, expected),
  });
  const offsets = parseAs(shardingSchema, value, (_, found) => refuse(found, "offsets by name"));
  return new Map(Object.entries(offsets).map(([name, { saved_offsets: own }]) => [name, own]));
}

function joinParts(name: string, parts: readonly Part[]): ConversionParameter {
  const [first] = parts;
  const dtype = first?.entry.dtype ?? "F32";
  const rank = first?.offsets.length ?? 0;
  const other = parts.find(({ entry }) => entry.dtype !== dtype || entry.shape.length !== rank);
  if (other !== undefined) {
    const where = { file: other.entry.ranges[0]?.file, tensor: name };
    const found = `${other.entry.dtype} [${other.entry.shape}]`;
    throw new MergeyardError("DcpChunkMismatch", {
      where,
      found,
      expected: `${dtype} of ${rank} axes, as in other shards`,
    });
  }
  const shape = Array.from({ length: rank }, (_, axis) =>
    Math.max(...parts.map(({ entry, offsets }) => (offsets[axis] ?? 0) + (entry.shape[axis] ?? 0))),
  );
  const boxes = parts.map(({ entry, offsets }) => wholeBox(entry.ranges, entry.shape, offsets));
  const isSafe = Number.isSafeInteger(tensorBytes(dtype, shape));
  const problem = isSafe ? findTilingProblem(boxes, shape) : { found: `[${shape}]`, expected: "parts that tile it" };
  if (problem !== undefined) {
    const where = { file: first?.entry.ranges[0]?.file, tensor: name };
    throw new MergeyardError("DcpChunksInvalid", { where, ...problem });
  }
  return plainParameter({ name, dtype, shape, gather: { rule: "join", copies: [boxes] } });
}
