"""The models that R²ec is compared with, from counting to the same backbone without reasoning."""
