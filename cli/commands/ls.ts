// `mergeyard ls --yard YARD`: the models of a yard with their versions, channels and uploads.
import type { Command } from "commander";
import { listModels, type ModelListing, openYard } from "../../steps/yard.ts";
import { createStoreOpener } from "../../stores/open.ts";
import { jsonOption, toUri, yardOption } from "../arguments.ts";
import { printResult, type Terminal } from "../terminal.ts";
import { formatBytes, renderTable } from "../text.ts";

export function addLs(program: Command, terminal: Terminal): void {
  program
    .command("ls")
    .description("list a yard's models, versions, channels and uploads")
    .addOption(yardOption())
    .addOption(jsonOption())
    .action(async (options: { yard: string; json?: boolean }) => {
      const yard = toUri(options.yard, terminal.cwd);
      const models = await listModels(await openYard(createStoreOpener(terminal.env), yard));
      printResult(terminal, options.json, { yard, models: models.map(toData) }, () =>
        models.length === 0 ? "no models yet" : render(models),
      );
    });
}

function toData({ model, versions, channels, uploads }: ModelListing) {
  return {
    model,
    channels,
    versions,
    uploads: uploads.map(({ upload, prefix, bytes, files, modifiedMs }) => ({
      upload,
      prefix,
      bytes,
      files: files.length,
      modifiedMs,
    })),
  };
}

function render(models: readonly ModelListing[]): string {
  const rows = models.flatMap(({ model, versions, uploads }) => [
    ...versions.map(({ version, channels, publishedMs, bytes }) => [
      `${model}@${version}`,
      "version",
      channels.join(", "),
      formatTime(publishedMs),
      formatBytes(bytes),
    ]),
    ...uploads.map(({ upload, modifiedMs, bytes }) => [
      `incoming/${model}/${upload}`,
      "upload",
      "",
      formatTime(modifiedMs),
      formatBytes(bytes),
    ]),
  ]);
  return renderTable(
    [
      { title: "name", align: "left" },
      { title: "kind", align: "left" },
      { title: "channels", align: "left" },
      { title: "time (UTC)", align: "left" },
      { title: "bytes", align: "right" },
    ],
    rows,
  );
}

function formatTime(milliseconds: number): string {
  return new Date(milliseconds).toISOString().slice(0, 16).replace("T", " ");
}
