"""The micro world: what the embedded model knows, what it is asked, and how its quality is checked.

It demonstrates a mechanism and is built so that silent judgement is hard: a request is judged by two steps of
knowledge, from an object to its kind and from the kind to what it does.
"""
