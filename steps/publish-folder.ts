// Publishing a folder that a command made: a merge, an aligned model, an adapter, a version that was pulled elsewhere.
// Files are checked against the folder's manifest on their way, the manifest comes last, and the channel follows as a
// person's decision does. What a run publishes is publish.ts.
import * as z from "zod";
import { checkName } from "../core/artifact/key.ts";
import { layout } from "../core/artifact/layout.ts";
import { versionName } from "../core/artifact/manifest.ts";
import { mapBounded } from "../core/map-bounded.ts";
import { count, uri } from "../core/schema-atoms.ts";
import { readManifest } from "./checkpoint-listing.ts";
import { promote } from "./decide-channel.ts";
import type { PublishDeps } from "./publish.ts";
import { createOnce } from "./records.ts";
import { addSignature } from "./signature.ts";
import { defineStep } from "./step.ts";
import { copyVerified, STREAMS_IN_FLIGHT } from "./stream.ts";
import { openYard } from "./yard.ts";

export const publishFolderStep = defineStep({
  name: "publish-folder",
  input: z.strictObject({
    /** URIs of the folder and of the yard. */
    source: uri,
    yard: uri,
    model: z.string(),
    channel: z.string(),
  }),
  output: z.strictObject({
    model: z.string(),
    version: z.string(),
    channel: z.string(),
    /** Where the channel pointed; null when it is new. */
    before: z.string().nullable(),
    /** present: the yard had the version already. */
    outcome: z.enum(["published", "present"]),
    files: count,
    bytes: count,
  }),
  /**
   * Interrupted anywhere, it leaves files that nothing names; run again, it puts the others.
   * Throws YardManifestMissing, YardFileCorrupt, YardNameConflict, YardChannelContended, Manifest, Signing and
   * Signature codes, and what the stores throw.
   */
  async run(input, deps: PublishDeps) {
    const { signal, signer } = deps;
    const yard = await openYard(deps.openStore, input.yard);
    const source = deps.openStore(input.source);
    const [model, channel] = [checkName(input.model), checkName(input.channel)];
    const { manifest, bytes: document } = await readManifest(source, "", signal);
    const version = versionName(manifest);
    const prefix = layout.version(model, version);
    let bytesRead = 0;
    const took = (bytes: number): void => {
      bytesRead += bytes;
      deps.progress?.({ bytesRead, bytesWritten: bytesRead });
    };
    const isThere = (await yard.head(layout.versionManifest(model, version), { signal })) !== undefined;
    const files = isThere ? [] : manifest.files;
    await mapBounded(
      files,
      async (file) => {
        const from = { store: source, key: file.name, bytes: (await source.head(file.name, { signal }))?.bytes ?? 0 };
        await copyVerified(from, { store: yard, key: `${prefix}${file.name}` }, file, signal, took);
      },
      STREAMS_IN_FLIGHT,
    );
    if (signer !== undefined) {
      const inputs = manifest.inputs.map((own) => ({ ...own, place: undefined }));
      await addSignature({ store: yard, prefix }, { manifest, run: undefined, inputs, images: [] }, signer, signal);
    }
    await createOnce(yard, layout.versionManifest(model, version), document, signal);
    const { before } = await promote(yard, `${model}@${version}`, channel, deps);
    const bytes = manifest.files.reduce((sum, file) => sum + file.bytes, 0);
    const outcome: "published" | "present" = isThere ? "present" : "published";
    return { model, version, channel, before, outcome, files: manifest.files.length, bytes };
  },
});
