// `mergeyard keygen FILE` and `mergeyard public-key KEY`: a pair of keys to sign versions with, and the half of a key
// that others check them with.
import path from "node:path";
import type { Command } from "commander";
import { createKeyFiles } from "../../signing/file-key.ts";
import { openKey } from "../../signing/open-signer.ts";
import { jsonOption, parseLocalPath } from "../arguments.ts";
import { printResult, type Terminal } from "../terminal.ts";

export function addKeygen(program: Command, terminal: Terminal): void {
  program
    .command("keygen")
    .description("make a pair of keys that sign versions: FILE, and FILE.pub for those who check")
    .argument("<file>", "the private key's file; outside of every yard", parseLocalPath)
    .addOption(jsonOption())
    .action(async (name: string, options: { json?: boolean }) => {
      const file = path.resolve(terminal.cwd, name);
      const { id } = await createKeyFiles(file);
      printResult(terminal, options.json, { privateKey: file, publicKey: `${file}.pub`, keyId: id }, () =>
        [`${name} signs: set MERGEYARD_SIGNING_KEY to it, and keep it secret`, `${name}.pub checks: ${id}`].join("\n"),
      );
    });
  program
    .command("public-key")
    .description("print the public half of a signing key, for those who check signatures")
    .argument("<key>", "the private key's file, or awskms:///KEY")
    .addOption(jsonOption())
    .action(async (place: string, options: { json?: boolean }) => {
      const { publicKey } = await openKey(
        /^awskms:/.test(place) ? place : path.resolve(terminal.cwd, place),
        terminal.env,
      );
      const pem = String(publicKey.key.export({ type: "spki", format: "pem" })).trimEnd();
      printResult(terminal, options.json, { keyId: publicKey.id, pem }, () => pem);
    });
}
