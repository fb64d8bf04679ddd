// What to do about a new object in a yard: when it belongs to an upload that is whole, start the pipelines that ask for
// uploads of its model. Decided from what lies in the yard now, never from the event, which may come twice, late, or
// before the object that it speaks of is the newest.
import * as z from "zod";
import { checkName } from "../core/artifact/key.ts";
import { isUploadNote } from "../core/artifact/upload.ts";
import { MergeyardError } from "../core/error.ts";
import { uri } from "../core/schema-atoms.ts";
import { fingerprintFiles } from "./open-checkpoint.ts";
import { findStarts, type StoredPipeline, startsSchema } from "./pipeline-starts.ts";
import { whyIncomplete } from "./resolve-model.ts";
import { defineStep } from "./step.ts";
import { listUploads, openYard, type UploadListing } from "./yard.ts";

export const onUploadStep = defineStep({
  name: "on-upload",
  input: z.strictObject({
    yard: uri,
    /** Of any object that was created in the yard. */
    key: z.string().min(1),
  }),
  output: z.strictObject({
    ...startsSchema.shape,
    /** elsewhere: no upload's object. missing: the upload is gone. incomplete: an event of its last file will come. */
    upload: z.enum(["elsewhere", "missing", "incomplete", "complete"]),
  }),
  async run({ yard: uri, key }, deps) {
    const none = { starts: [], unreadable: [] };
    const place = parseUploadKey(key);
    if (place === undefined) return { ...none, upload: "elsewhere" as const };
    const yard = await openYard(deps.openStore, uri);
    const uploads = await listUploads(yard, place.model);
    const upload = uploads.find((entry) => entry.upload === place.upload);
    if (upload === undefined) return { ...none, upload: "missing" as const };
    const reason = await whyIncomplete(yard, upload, deps.signal);
    if (reason !== undefined) {
      deps.log({ event: "upload-incomplete", prefix: upload.prefix, reason: reason.found });
      return { ...none, upload: "incomplete" as const };
    }
    const cause = { cause: fingerprintUpload(upload), words: "upload" };
    const found = await findStarts(yard, deps, (pipeline) => (asksForUploads(pipeline, place.model) ? [cause] : []));
    return { ...found, upload: "complete" as const };
  },
});

/** `incoming/<model>/<upload>/<file>`; undefined for any other key, and for folders that cannot be a model's. */
function parseUploadKey(key: string): { readonly model: string; readonly upload: string } | undefined {
  const [area, model = "", upload = "", ...file] = key.split("/");
  if (area !== "incoming" || upload === "" || file.join("/") === "") return undefined;
  try {
    return { model: checkName(model), upload };
  } catch (cause) {
    if (cause instanceof MergeyardError) return undefined;
    throw cause;
  }
}

/** Whether a pipeline is to be started by whole uploads of a model. */
export function asksForUploads({ recipe }: StoredPipeline, model: string): boolean {
  return (recipe.pipeline.on?.upload ?? []).some((pattern) => matchesPattern(pattern, model));
}

/** Names, sizes and ETags of all files but the marker, which may be written again to ask for the same once more. */
export function fingerprintUpload({ prefix, files }: UploadListing): string {
  const named = files.map(({ key, bytes, etag }) => ({ name: key.slice(prefix.length), bytes, etag }));
  return fingerprintFiles(named.filter(({ name }) => !isUploadNote(name)));
}

/**
 * Whether a name fits a pattern in which `*` stands for any characters and `?` for one. Time: their lengths' product.
 */
export function matchesPattern(pattern: string, name: string): boolean {
  let [at, star, retry] = [0, -1, 0];
  for (let index = 0; index < name.length; ) {
    if (pattern[at] === "*") {
      [star, retry] = [at, index];
      at += 1;
    } else if (pattern[at] === "?" || pattern[at] === name[index]) {
      at += 1;
      index += 1;
    } else if (star !== -1) {
      at = star + 1;
      retry += 1;
      index = retry;
    } else return false;
  }
  while (pattern[at] === "*") at += 1;
  return at === pattern.length;
}
