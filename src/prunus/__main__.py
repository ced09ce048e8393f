"""``python -m prunus``"""

from .cli import main

main()
