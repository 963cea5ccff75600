import { doctor, formatDoctorReport, terminalProgress } from '@anneal/tensorflow';
import type { Command } from 'commander';
import { print } from '../output/print.ts';

export function doctorCommand(program: Command): Command {
  return program
    .createCommand('doctor')
    .copyInheritedSettings(program)
    .description('say which TensorFlow is used, on what device, what works, and how fast it is')
    .option('--json', 'print JSON')
    .action(async ({ json }: { json?: boolean }) => {
      const progress = terminalProgress();
      const report = await doctor({ onProgress: progress.onProgress }).finally(progress.stop);
      print(json, report, () => formatDoctorReport(report).trimEnd());
    });
}
