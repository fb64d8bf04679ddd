// Verifying a folder against what it says of itself: a published or pulled version against its manifest, a universal
// checkpoint against universal.json. Every byte is read. Of a version also its signature, and in a yard its lineage.
import * as z from "zod";
import {
  MANIFEST_FILE,
  type Manifest,
  manifestDigest,
  SIGNATURE_FILE,
  versionName,
} from "../core/artifact/manifest.ts";
import { parsePublicKeys } from "../core/artifact/public-key.ts";
import { checkpointDigest, UNIVERSAL_FILE } from "../core/artifact/universal.ts";
import { MergeyardError } from "../core/error.ts";
import { mapBounded } from "../core/map-bounded.ts";
import { count, uri } from "../core/schema-atoms.ts";
import type { ObjectStore } from "../stores/store.ts";
import { readManifest, readUniversal } from "./checkpoint-listing.ts";
import { checkLineage, lineageEntrySchema } from "./lineage.ts";
import { checkSignature, signatureSchema, trustedKeysSchema } from "./signature.ts";
import { defineStep, type StepDeps } from "./step.ts";
import { type ListedFile, STREAMS_IN_FLIGHT, verifyFile } from "./stream.ts";

const verifyInputSchema = z.strictObject({
  /** A pulled version, `<yard>/artifacts/<model>/<version>`, or a universal checkpoint. */
  folder: uri,
  /** The version that it should be. */
  version: z.string().optional(),
  /** The yard that it lies in: its lineage is looked at as well. */
  yard: uri.optional(),
  trustedKeys: trustedKeysSchema,
});
const verifyOutputSchema = z.strictObject({
  folder: uri,
  /** Of a version; null for a universal checkpoint. */
  model: z.string().nullable(),
  version: z.string().nullable(),
  /** Digest of the manifest, or of universal.json. */
  digest: z.string(),
  files: count,
  tensors: count,
  bytes: count,
  /** Null for a universal checkpoint. */
  signature: signatureSchema.nullable(),
  /** Inputs and their inputs; null when no yard was named. */
  lineage: z.array(lineageEntrySchema).nullable(),
});

export type VerifyOutput = z.infer<typeof verifyOutputSchema>;

/**
 * Throws YardManifestMissing, YardFileCorrupt (the first file that differs), Manifest, Universal and Signature codes,
 * YardLineageBroken, SigningKeyInvalid.
 */
export const verifyStep = defineStep({
  name: "verify",
  input: verifyInputSchema,
  output: verifyOutputSchema,
  async run({ folder, version, yard, trustedKeys }, deps) {
    const store = deps.openStore(folder);
    const trusted = trustedKeys === undefined ? [] : parsePublicKeys(trustedKeys, "trusted keys");
    const described = await readDescription(store, deps);
    if (version !== undefined && described.version !== version) {
      throw new MergeyardError("YardFileCorrupt", {
        where: { store: store.uri, file: described.document },
        found: `version ${described.version ?? "of a universal checkpoint"}`,
        expected: `version ${version}`,
      });
    }
    const { manifest } = described;
    if (manifest === null && trusted.length > 0) {
      throw new MergeyardError("SignatureMissing", { where: { store: store.uri, file: SIGNATURE_FILE } });
    }
    const signature = manifest && (await checkSignature({ store, prefix: "" }, described.digest, trusted, deps.signal));
    const lineage =
      manifest && yard !== undefined
        ? await checkLineage(deps.openStore(yard), manifest, signature?.statement, deps.signal)
        : null;
    const done = { bytesRead: 0, bytesWritten: 0 };
    await mapBounded(described.files, (file) => verifyListed(store, file, deps, done), STREAMS_IN_FLIGHT);
    const { model, digest, files } = described;
    return {
      folder: store.uri,
      model,
      version: described.version,
      digest,
      files: files.length,
      tensors: files.reduce((sum, file) => sum + (file.tensors?.length ?? 0), 0),
      bytes: files.reduce((sum, file) => sum + file.bytes, 0),
      signature: signature && { status: signature.status, keyIds: signature.keyIds },
      lineage,
    };
  },
});

type Description = {
  readonly document: string;
  /** Null for a universal checkpoint. */
  readonly manifest: Manifest | null;
  readonly model: string | null;
  readonly version: string | null;
  readonly digest: string;
  readonly files: readonly ListedFile[];
};

async function readDescription(store: ObjectStore, deps: StepDeps): Promise<Description> {
  if ((await store.head(UNIVERSAL_FILE, { signal: deps.signal })) !== undefined) {
    const { universal, files } = await readUniversal(store, "", deps.signal);
    const digest = checkpointDigest(universal);
    return { document: UNIVERSAL_FILE, manifest: null, model: null, version: null, digest, files };
  }
  const { manifest } = await readManifest(store, "", deps.signal);
  const { model, files } = manifest;
  const [version, digest] = [versionName(manifest), manifestDigest(manifest)];
  return { document: MANIFEST_FILE, manifest, model, version, digest, files };
}

async function verifyListed(
  store: ObjectStore,
  file: ListedFile,
  deps: StepDeps,
  done: { bytesRead: number; bytesWritten: number },
): Promise<void> {
  const info = await store.head(file.name, { signal: deps.signal });
  if (info === undefined) {
    const where = { store: store.uri, file: file.name };
    throw new MergeyardError("YardFileCorrupt", { where, found: "no such file", expected: `${file.bytes} bytes` });
  }
  await verifyFile({ store, key: file.name, bytes: info.bytes }, file, deps.signal, (bytes) => {
    done.bytesRead += bytes;
    deps.progress?.({ ...done });
  });
  deps.log({ event: "file-verified", file: file.name, bytes: file.bytes });
}
