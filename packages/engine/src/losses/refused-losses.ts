/** Names that the SDK knows and this server does not compute, with what to use instead. */
export const REFUSED_LOSSES: ReadonlyMap<string, string> = new Map([
  [
    'stable_reinforce',
    'is not available: its definition is not public, and it needs recordings that only the hosted service makes while ' +
      'sampling. Use importance_sampling, ppo or cispo; recipes of tinker-cookbook take it on the command line as ' +
      'loss_fn=importance_sampling (python -m tinker_cookbook.recipes.rl_loop loss_fn=importance_sampling ...).',
  ],
  [
    'custom',
    'is not available: graphs uploaded by create_custom_loss are not evaluated here. Pass the function itself to ' +
      'forward_backward_custom, which runs it in the client, or start the server with a loss of your own ' +
      '(anneal serve --loss ./my-loss.ts).',
  ],
]);
