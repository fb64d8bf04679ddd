// A signing key that is a file of this machine: PKCS #8 in PEM, ed25519 or ECDSA on P-256. Making a pair, and signing.
import { createPrivateKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { constants } from "node:fs";
import { access, open, readFile, rm } from "node:fs/promises";
import path from "node:path";
import type { Signer } from "../core/artifact/attestation.ts";
import { type PublicKey, toPublicKey } from "../core/artifact/public-key.ts";
import { MergeyardError } from "../core/error.ts";

export type FileKey = Signer & { readonly publicKey: PublicKey };

/** The key in a file. Throws SigningKeyInvalid. */
export async function openFileKey(file: string): Promise<FileKey> {
  const where = { file };
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new MergeyardError("SigningKeyInvalid", { where, found: "no file that can be read", cause });
  });
  let key: KeyObject;
  try {
    key = createPrivateKey(text);
  } catch (cause) {
    const [found = "no PEM block"] = /-----BEGIN [A-Z ]+-----/.exec(text) ?? [];
    const expected = "a private key in PEM: ed25519, or ECDSA on P-256";
    throw new MergeyardError("SigningKeyInvalid", { where, found, expected, cause });
  }
  const publicKey = toPublicKey(key, file);
  return {
    keyId: publicKey.id,
    publicKey,
    sign: async (message) => sign(publicKey.hash, message, key),
  };
}

/**
 * Makes an ed25519 pair: `file`, for its owner alone, and `file`.pub. Throws SigningKeyPlace when either is there
 * already, or when the folder is in a yard.
 */
export async function createKeyFiles(file: string): Promise<PublicKey> {
  await refuseYard(file);
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  await writeNew(file, privateKey.export({ type: "pkcs8", format: "pem" }), 0o600);
  try {
    await writeNew(`${file}.pub`, publicKey.export({ type: "spki", format: "pem" }), 0o644);
  } catch (error) {
    await rm(file);
    throw error;
  }
  return toPublicKey(publicKey, file);
}

async function refuseYard(file: string): Promise<void> {
  for (let folder = path.dirname(file); ; folder = path.dirname(folder)) {
    const isYard = await access(path.join(folder, "yard.json"), constants.F_OK).then(
      () => true,
      () => false,
    );
    if (isYard) throw new MergeyardError("SigningKeyPlace", { where: { file }, found: `the yard ${folder}` });
    if (folder === path.dirname(folder)) return;
  }
}

async function writeNew(file: string, text: string | Buffer, mode: number): Promise<void> {
  try {
    const handle = await open(file, "wx", mode);
    await handle.writeFile(text);
    await handle.close();
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new MergeyardError("SigningKeyPlace", { where: { file }, found, cause });
  }
}
