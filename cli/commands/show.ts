// `mergeyard show MODEL --yard YARD`: one published version: its files at their digests, what it was made from, and the
// channels that point to it.
import type { Command } from "commander";
import type { Manifest } from "../../core/artifact/manifest.ts";
import { readVersion } from "../../steps/checkpoint-listing.ts";
import {
  findVersion,
  listModel,
  type ModelListing,
  openYard,
  parseVersionReference,
  type VersionPlace,
} from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, toUri, yardOption } from "../arguments.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { formatBytes, renderTable } from "../text.ts";

export function addShow(program: Command, terminal: Terminal): void {
  program
    .command("show")
    .description("show a published version: files, inputs, recipe, channels")
    .argument("<model>", "MODEL (its latest), MODEL@VERSION or MODEL:CHANNEL")
    .addOption(yardOption())
    .addOption(jsonOption())
    .action(async (model: string, options: { yard: string; json?: boolean }) => {
      const yard = await openYard(createStoreOpener(terminal.env), toUri(options.yard, terminal.cwd));
      const place = await findVersion(yard, parseVersionReference(model));
      const { manifest } = await readVersion(yard, place, terminal.signal);
      const listing = await listModel(yard, place.model);
      const channels = channelsOf(listing, place.version);
      const data = { model: place.model, version: place.version, prefix: place.prefix, channels, manifest };
      printResult(terminal, options.json, data, () => describe(place, channels, manifest));
    });
}

function channelsOf({ channels }: ModelListing, version: string): string[] {
  return Object.entries(channels)
    .filter(([, pointed]) => pointed === version)
    .map(([channel]) => channel);
}

function describe({ model, version, prefix }: VersionPlace, channels: readonly string[], manifest: Manifest): string {
  const files = manifest.files.map((file) => [
    file.name,
    formatBytes(file.bytes),
    "tensors" in file ? String(file.tensors.length) : "",
    file.digest,
  ]);
  return [
    `${model}@${version}`,
    `  channels  ${channels.length === 0 ? "none points to it" : channels.join(", ")}`,
    `  method    ${manifest.method}, engine ${manifest.engine}`,
    ...manifest.inputs.map(({ model: input, digest }) => `  made from ${input}  ${digest ?? "(no digest)"}`),
    `  lies in   ${prefix}`,
    "",
    renderTable(
      [
        { title: "file", align: "left" },
        { title: "bytes", align: "right" },
        { title: "tensors", align: "right" },
        { title: "digest", align: "left" },
      ],
      files,
    ),
    "",
    "recipe:",
    manifest.recipe.text.trimEnd().replace(/^/gm, "  "),
  ].join("\n");
}
