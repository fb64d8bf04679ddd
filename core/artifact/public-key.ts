// Public keys that somebody trusts, and signatures by them: ed25519, and ECDSA on P-256 with SHA-256, which is what AWS
// KMS gives. Private keys are never here: signing/ holds them, or a service does.
import { createPublicKey, type KeyObject, verify } from "node:crypto";
import { MergeyardError } from "../error.ts";
import { type Digest, digestBytes } from "./digest.ts";

export type PublicKey = {
  /** Digest of the key's DER form (SubjectPublicKeyInfo): the `keyid` of its signatures. */
  readonly id: Digest;
  readonly key: KeyObject;
  /** What is hashed before signing; null: the scheme hashes by itself (ed25519). */
  readonly hash: "sha256" | null;
};

const BLOCK = /-----BEGIN [A-Z ]+-----[^-]*-----END [A-Z ]+-----/g;

/** Every public key of a PEM text, in order. `file` is for the error. Throws SigningKeyInvalid, also for no key. */
export function parsePublicKeys(text: string, file: string): readonly PublicKey[] {
  const blocks = text.match(BLOCK) ?? [];
  if (blocks.length === 0) throw invalidKey(file, "no PEM block");
  return blocks.map((block) => {
    if (!block.startsWith("-----BEGIN PUBLIC KEY-----")) throw invalidKey(file, block.slice(0, block.indexOf("\n")));
    return toPublicKey(block, file);
  });
}

/** The public key of a PEM text, or of a key object of either half. Throws SigningKeyInvalid. */
export function toPublicKey(source: string | KeyObject, file: string): PublicKey {
  let key: KeyObject;
  try {
    key = typeof source !== "string" && source.type === "public" ? source : createPublicKey(source);
  } catch (cause) {
    throw invalidKey(file, "bytes that are no key", cause);
  }
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  const isCurve = type === "ec" && details?.namedCurve === "prime256v1";
  if (type !== "ed25519" && !isCurve) throw invalidKey(file, `a key of kind ${type} ${details?.namedCurve ?? ""}`);
  const id = digestBytes(key.export({ type: "spki", format: "der" }));
  return { id, key, hash: isCurve ? "sha256" : null };
}

/** True when `signature` (ed25519: 64 bytes; ECDSA: DER) is the key's over the message. */
export function verifySignature({ key, hash }: PublicKey, message: Uint8Array, signature: Uint8Array): boolean {
  return verify(hash, message, key, signature);
}

function invalidKey(file: string, found: string, cause?: unknown): MergeyardError {
  const expected = "keys in PEM: ed25519, or ECDSA on P-256";
  return new MergeyardError("SigningKeyInvalid", { where: { file }, found, expected, cause });
}
