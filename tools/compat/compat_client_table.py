"""docs/client.md sets each method of the SDK beside one of ours, from a list that is made of the SDK itself."""
import json
import sys
from pathlib import Path

FIXTURES = Path(__file__).parents[2] / "packages" / "client" / "fixtures"
sys.path.append(str(FIXTURES))

from sdk_surface import surface  # noqa: E402


def test_the_client_knows_every_method_error_and_type_of_the_sdk():
    """The client's unit tests compare this list with the table and with what is exported."""
    assert json.loads((FIXTURES / "python_sdk.json").read_text()) == surface(), "run: python make_sdk.py"
