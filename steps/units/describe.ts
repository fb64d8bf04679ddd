// Describing: making the universal checkpoint of a source whose tensor files have been adopted. The files are copied
// or linked as they are into checkpoints/<model>/<digest>/, universal.json comes last and makes the checkpoint exist.
import assert from "node:assert/strict";
import { digestJson } from "../../core/artifact/digest.ts";
import { layout } from "../../core/artifact/layout.ts";
import type { TensorFileListing } from "../../core/artifact/listed-file.ts";
import { adoptSafetensors, checkpointDigest, encodeUniversal, UNIVERSAL_FILE } from "../../core/artifact/universal.ts";
import { MergeyardError } from "../../core/error.ts";
import type { DescribeUnit, PlanSource } from "../../core/plan/schema.ts";
import { describeConverted } from "../../core/universal/convert-plan.ts";
import { writeBytes } from "../../stores/objects.ts";
import type { ObjectStore } from "../../stores/store.ts";
import { recordCached } from "../cache.ts";
import { digestFiles } from "../checkpoint-digest.ts";
import {
  listDocument,
  openPlace,
  type StoredCheckpoint,
  travellingFiles,
  writtenDocuments,
} from "../open-checkpoint.ts";
import { createOnce } from "../records.ts";
import { refuseRemoved } from "../removal.ts";
import { putFile } from "../stream.ts";
import { needReceipt, type UnitContext } from "./context.ts";
import { PLAIN_WORK, type UnitWork } from "./unit-work.ts";

/**
 * Runs a describe unit. Interrupted anywhere, it leaves files that nothing names; run again, it finds or repeats them.
 * Throws YardSourceChanged when the source is not what was planned, YardNameConflict, and what the stores throw.
 */
export async function describeSource(context: UnitContext, unit: DescribeUnit): Promise<UnitWork> {
  const { yard, plan, deps } = context;
  const planned = plan.header.sources[unit.source];
  assert.ok(planned !== undefined, `the plan has no source ${unit.source}`);
  const store = deps.openStore(planned.store);
  const opened = await openUnchanged(store, planned, deps.signal);
  const adopted = await readAdopted(context, unit);
  const tensorFiles = adopted.map(({ file }) => file);
  const { conversion } = opened;
  const copied = await digestFiles({ store, prefix: planned.prefix }, travellingFiles(opened), deps.signal);
  const made = writtenDocuments(opened);
  const sideFiles = [...copied, ...made.map(listDocument)];
  const universal =
    conversion === undefined
      ? adoptSafetensors(tensorFiles, sideFiles)
      : describeConverted(opened, conversion, tensorFiles, sideFiles);
  const digest = checkpointDigest(universal);
  const prefix = layout.checkpoint(unit.model, digest);
  await refuseRemoved(yard, prefix, deps.signal);
  const document = encodeUniversal(universal);
  let bytesCopied = 0;
  const places = new Map(adopted.flatMap(({ file, key }) => (key === null ? [] : [[file.name, key] as const])));
  for (const { name, bytes } of made) {
    await writeBytes(yard, `${prefix}${name}`, bytes, { signal: deps.signal });
  }
  for (const file of [...tensorFiles, ...copied]) {
    const madeHere = places.get(file.name);
    const target = { store: yard, key: `${prefix}${file.name}` };
    // A stream that an earlier attempt finished is not repeated. What the store copies by itself is: a link into an
    // upload that was written over since would otherwise stay.
    const there =
      madeHere !== undefined || store.uri === yard.uri
        ? undefined
        : await yard.head(target.key, { signal: deps.signal });
    if (there?.bytes === file.bytes) continue;
    const source =
      madeHere === undefined
        ? { store, key: `${planned.prefix}${file.name}`, bytes: file.bytes }
        : { store: yard, key: madeHere, bytes: file.bytes };
    bytesCopied += await putFile(source, target, file, deps.signal);
  }
  await openUnchanged(store, planned, deps.signal); // what was copied is what was digested
  await createOnce(yard, `${prefix}${UNIVERSAL_FILE}`, document, deps.signal);
  await recordCached(yard, planned.fingerprint, { cache: 1, output: "checkpoint", prefix, digest }, deps.signal);
  return {
    ...PLAIN_WORK,
    key: digestJson({ operation: "describe", checkpoint: digest }),
    outputKey: `${prefix}${UNIVERSAL_FILE}`,
    file: null,
    checkpoint: { prefix, digest },
    bytesRead: bytesCopied + sideFiles.reduce((sum, file) => sum + file.bytes, 0),
    bytesWritten: bytesCopied + document.length,
  };
}

/** Opens the source's headers and checks that its files are those that the plan saw. */
async function openUnchanged(store: ObjectStore, planned: PlanSource, signal: AbortSignal): Promise<StoredCheckpoint> {
  const opened = await openPlace({ store, prefix: planned.prefix, file: planned.file }, signal);
  if (opened.fingerprint === planned.fingerprint) return opened;
  throw new MergeyardError("YardSourceChanged", {
    where: { store: planned.store, file: planned.prefix, model: planned.model },
    found: opened.fingerprint,
    expected: planned.fingerprint,
  });
}

/** A tensor file of the checkpoint; `key` where a unit of this run made it, null where it is the source's own. */
type AdoptedFile = { readonly file: TensorFileListing; readonly key: string | null };

function readAdopted(context: UnitContext, unit: DescribeUnit): Promise<readonly AdoptedFile[]> {
  return Promise.all(
    unit.adopts.map(async ({ stage, index }) => {
      const { file, outputKey } = await needReceipt(context, stage, index);
      assert.ok(file !== null, "the receipt of an adopt unit lists its file");
      return { file, key: outputKey };
    }),
  );
}
