// The manifest of a published version: every file at its digest, the recipe and the inputs it was made from. It holds
// no time and nothing that depends on where it ran, so that the same recipe and inputs give the same version.
import * as z from "zod";
import { MergeyardError } from "../error.ts";
import { ARTIFACT_LIMITS } from "../limits.ts";
import { compareUtf8, sortByName } from "../utf8-order.ts";
import { type Digest, digestBytes, digestJson } from "./digest.ts";
import { digestSchema } from "./digest-schema.ts";
import { checkDocument, type DocumentKind, encodeDocument, parseDocument } from "./document.ts";
import { shortDigest } from "./layout.ts";
import {
  blockFileListingSchema,
  findBlockProblem,
  findListingProblem,
  type ListingProblem,
  smallFileListingSchema,
  tensorFileListingSchema,
} from "./listed-file.ts";

export const MANIFEST_FILE = "manifest.json";

/** Signatures of the manifest (attestation.ts): beside it, and no file of the version. */
export const SIGNATURE_FILE = "manifest.intoto.jsonl";

/** Names that no file of a version may have. */
const RESERVED: ReadonlySet<string> = new Set([MANIFEST_FILE, SIGNATURE_FILE]);

const manifestInputSchema = z.strictObject({
  /** The reference as the recipe spells it. */
  model: z.string(),
  /**
   * Digest of the universal checkpoint or of the version's manifest, or what a yard would call a folder read as it was
   * (`steps/checkpoint-digest.ts`); null where that was left out.
   */
  digest: digestSchema.nullable(),
});

const manifestSchema = z.strictObject({
  manifest: z.literal(1),
  model: z.string().min(1),
  /** Version of the engine (`core/version.ts`). */
  engine: z.string().min(1),
  /** Id of the merge method. */
  method: z.string().min(1),
  /** As the user wrote it; `digest` covers the text. */
  recipe: z.strictObject({ text: z.string().max(ARTIFACT_LIMITS.recipeCharacters), digest: digestSchema }),
  /** In recipe order. */
  inputs: z.array(manifestInputSchema),
  /**
   * Every file of the version but the manifest, in name order; those that hold tensors list them. What lies in a folder
   * is a checkpoint of its own, beside the version's.
   */
  files: z.array(z.union([tensorFileListingSchema, blockFileListingSchema, smallFileListingSchema])),
});

export type Manifest = z.infer<typeof manifestSchema>;
export type ManifestInput = z.infer<typeof manifestInputSchema>;
export type ManifestFile = Manifest["files"][number];

const KIND: DocumentKind<typeof manifestSchema> = {
  mark: "manifest",
  version: 1,
  schema: manifestSchema,
  invalid: "ManifestInvalid",
  unsupported: "ManifestVersionUnsupported",
};

export type ManifestParts = {
  readonly model: string;
  readonly engine: string;
  readonly method: string;
  /** Text of the recipe. */
  readonly recipe: string;
  readonly inputs: readonly ManifestInput[];
  readonly files: readonly ManifestFile[];
};

/** The manifest of these parts; files are put in name order. Throws ManifestInvalid when they contradict themselves. */
export function buildManifest(parts: ManifestParts): Manifest {
  const { model, engine, method, recipe, inputs } = parts;
  const files = sortByName(parts.files);
  const digest = digestBytes(recipe);
  const manifest = { manifest: 1 as const, model, engine, method, recipe: { text: recipe, digest }, inputs, files };
  const parsed = checkDocument(manifest, MANIFEST_FILE, KIND);
  checkManifest(parsed, MANIFEST_FILE);
  return parsed;
}

/** The bytes of `manifest.json`; their SHA-256 is `manifestDigest`. */
export function encodeManifest(manifest: Manifest): Uint8Array<ArrayBuffer> {
  return encodeDocument(manifest);
}

/**
 * The manifest in `bytes`; undefined when it is another tool's manifest.json.
 * Throws ManifestInvalid, ManifestVersionUnsupported.
 */
export function parseManifest(bytes: Uint8Array, file: string = MANIFEST_FILE): Manifest | undefined {
  const manifest = parseDocument(bytes, file, KIND);
  if (manifest !== undefined) checkManifest(manifest, file);
  return manifest;
}

/** Digest of the manifest's canonical JSON. */
export function manifestDigest(manifest: Manifest): Digest {
  return digestJson(manifest);
}

/** Name of the version that this manifest describes: the first 16 hex digits of its digest. */
export function versionName(manifest: Manifest): string {
  return shortDigest(manifestDigest(manifest));
}

/**
 * What the schema cannot say: files once and in order, none named as the manifest itself, the recipe at its digest,
 * every tensor file's parts adding up to it. Throws ManifestInvalid.
 */
function checkManifest(manifest: Manifest, file: string): void {
  const refuse = (field: string, found: string, expected: string): never => {
    throw new MergeyardError("ManifestInvalid", { where: { file, field }, found, expected });
  };
  const recipeDigest = digestBytes(manifest.recipe.text);
  if (manifest.recipe.digest !== recipeDigest) refuse("recipe.digest", manifest.recipe.digest, recipeDigest);
  let before = "";
  for (const [index, listing] of manifest.files.entries()) {
    const field = `files[${index}]`;
    if (RESERVED.has(listing.name)) refuse(`${field}.name`, listing.name, "every file but the manifest");
    if (index > 0 && compareUtf8(listing.name, before) <= 0)
      refuse(`${field}.name`, listing.name, `a name after ${before}`);
    before = listing.name;
    const problem = findProblem(listing);
    if (problem !== undefined) refuse(`${field}.${problem.field}`, problem.found, problem.expected);
  }
}

function findProblem(listing: ManifestFile): ListingProblem | undefined {
  if ("tensors" in listing) return findListingProblem(listing);
  return "blocks" in listing ? findBlockProblem(listing) : undefined;
}
