import { type FormEvent, useState } from 'react';

/** The key, entered once and kept in this browser. */
export function SignIn({ refused, onKey }: { refused: boolean; onKey: (key: string) => void }) {
  const [key, setKey] = useState('');
  const submit = (event: FormEvent): void => {
    event.preventDefault();
    if (key.trim() !== '') onKey(key.trim());
  };
  return (
    <main className="gate">
      <form className="gate-card" onSubmit={submit}>
        <img src="/favicon.svg" alt="" width={36} height={36} />
        <h1>Anneal</h1>
        <label htmlFor="key">API key</label>
        <input
          id="key"
          type="password"
          autoComplete="current-password"
          placeholder="tml-…"
          value={key}
          onChange={(event) => setKey(event.target.value)}
          aria-describedby="key-help"
          aria-invalid={refused}
        />
        {refused && (
          <p className="problem" role="alert">
            The server does not accept this key. It may have been revoked.
          </p>
        )}
        <button type="submit" className="primary">
          Open the console
        </button>
        <p id="key-help" className="muted">
          The server printed a key when it first started; <code>anneal keys create</code> makes another. It
          stays in this browser.
        </p>
      </form>
    </main>
  );
}
