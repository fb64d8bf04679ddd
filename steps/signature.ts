// A version's signature file in a store: adding the signature of whoever publishes, and checking one against the keys
// that a reader trusts. What is signed, and how, is core/artifact/attestation.ts.
import * as z from "zod";
import {
  type Envelope,
  encodeStatement,
  namedKeys,
  parseEnvelopes,
  type Signer,
  type Statement,
  type StatementParts,
  signStatement,
  verifyEnvelopes,
} from "../core/artifact/attestation.ts";
import type { Digest } from "../core/artifact/digest.ts";
import { SIGNATURE_FILE } from "../core/artifact/manifest.ts";
import type { PublicKey } from "../core/artifact/public-key.ts";
import { hasCode, MergeyardError } from "../core/error.ts";
import { ARTIFACT_LIMITS } from "../core/limits.ts";
import type { FolderPlace, ObjectStore } from "../stores/store.ts";

/** Public keys in PEM, one or several; when given, one of them must have signed the version. */
export const trustedKeysSchema = z.string().optional();

export const signatureSchema = z.strictObject({
  /** valid: a trusted key has signed the manifest. unchecked: it is signed, and no key was given to check it with. */
  status: z.enum(["valid", "unchecked", "absent"]),
  /** Of the key that was checked; of all that the signatures name when none was. */
  keyIds: z.array(z.string()),
});

export type Signature = z.infer<typeof signatureSchema>;

/**
 * Adds the signer's signature to a version, beside those that other keys gave it; false when it is there already.
 * Throws SignatureInvalid for a damaged file, and what signing and the stores throw.
 */
export async function addSignature(
  place: FolderPlace,
  parts: StatementParts,
  signer: Signer,
  signal: AbortSignal,
): Promise<boolean> {
  const { store, prefix } = place;
  const key = `${prefix}${SIGNATURE_FILE}`;
  let line: Uint8Array | undefined;
  // Each lost race means that another key's signature was added, and their number is bounded.
  for (let attempt = 0; attempt <= ARTIFACT_LIMITS.signatures; attempt += 1) {
    const found = await readSignatures(store, prefix, signal);
    if (found !== undefined && namedKeys(found.envelopes).includes(signer.keyId)) return false;
    line ??= new TextEncoder().encode(await signStatement(encodeStatement(parts), signer, signal));
    if (found === undefined) {
      if ((await store.create(key, line, { signal })).created) return true;
      continue;
    }
    const bytes = Buffer.concat([found.bytes, line]);
    if ((await store.replace(key, bytes, found.etag, { signal })).replaced) return true;
  }
  throw new MergeyardError("SignatureInvalid", {
    where: { store: store.uri, file: key },
    found: `more than ${ARTIFACT_LIMITS.signatures} signatures`,
  });
}

type StoredSignatures = { readonly bytes: Uint8Array; readonly etag: string; readonly envelopes: readonly Envelope[] };

/**
 * The signatures of a version; undefined when it has none. To whoever may not list, S3 answers that a missing object is
 * denied; the same counts as none here. Throws SignatureInvalid.
 */
export async function readSignatures(
  store: ObjectStore,
  prefix: string,
  signal: AbortSignal,
): Promise<StoredSignatures | undefined> {
  const key = `${prefix}${SIGNATURE_FILE}`;
  const found = await store.get(key, ARTIFACT_LIMITS.signatureBytes, { signal }).catch((cause: unknown) => {
    if (hasCode(cause, "StoreAccessDenied")) return undefined;
    throw cause;
  });
  return found && { ...found, envelopes: parseEnvelopes(found.bytes, { store: store.uri, file: key }) };
}

export type CheckedSignature = Signature & {
  /** What was signed; undefined unless `status` is valid. */
  readonly statement: Statement | undefined;
};

/**
 * What can be said of a version's signature. With trusted keys one of them must have signed the manifest: throws
 * SignatureMissing, SignatureUntrusted, SignatureWrong, SignatureInvalid. Without any, nothing is proven.
 */
export async function checkSignature(
  place: FolderPlace,
  manifest: Digest,
  trusted: readonly PublicKey[],
  signal: AbortSignal,
): Promise<CheckedSignature> {
  const { store, prefix } = place;
  const where = { store: store.uri, file: `${prefix}${SIGNATURE_FILE}` };
  const envelopes = (await readSignatures(store, prefix, signal))?.envelopes ?? [];
  if (trusted.length > 0) {
    const { keyId, statement } = verifyEnvelopes(envelopes, trusted, manifest, where);
    return { status: "valid", keyIds: [keyId], statement };
  }
  const status = envelopes.length === 0 ? "absent" : "unchecked";
  return { status, keyIds: [...namedKeys(envelopes)], statement: undefined };
}
