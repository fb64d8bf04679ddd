// From a signing key as a user or a deployment names it to what signs: the path of a PEM file, or `awskms:///KEY` with
// an id, ARN or alias. The only place that reads signing settings from an environment; edges pass theirs in.
import type { Signer } from "../core/artifact/attestation.ts";
import type { PublicKey } from "../core/artifact/public-key.ts";

export type SigningEnvironment = Readonly<Record<string, string | undefined>>;

const KMS = /^awskms:\/\/\/(.+)$/;

/** The key at a place, with its public half. Throws SigningKeyInvalid, SigningDenied, SigningUnavailable. */
export async function openKey(
  place: string,
  env: SigningEnvironment,
): Promise<Signer & { readonly publicKey: PublicKey }> {
  const keyId = KMS.exec(place)?.[1];
  if (keyId === undefined) {
    const { openFileKey } = await import("./file-key.ts");
    return openFileKey(place);
  }
  const { openKmsKey } = await import("./kms-key.ts");
  return openKmsKey(keyId, { endpoint: env.AWS_ENDPOINT_URL_KMS || env.AWS_ENDPOINT_URL || undefined });
}

/** The signer that MERGEYARD_SIGNING_KEY names; undefined when it names none: then nothing is signed. */
export async function openSigner(env: SigningEnvironment): Promise<Signer | undefined> {
  const place = env.MERGEYARD_SIGNING_KEY || undefined;
  return place === undefined ? undefined : openKey(place, env);
}
