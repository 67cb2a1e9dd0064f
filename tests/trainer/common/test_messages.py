from google.protobuf import text_format

from trainer.common.messages import declare

SHOP = declare(
    "proto2",
    {
        "Price": ["optional double euros = 2"],
        "Item": [
            "optional string name = 1",
            "optional Colour colour = 3",
            "repeated Price price = 4",
            "oneof bool free = 5",
            "oneof int64 points = 6",
        ],
    },
    {"Colour": ["NONE = 0", "RED = 7"]},
)


def test_on_the_wire():
    item = SHOP.Item(name="cup", colour=7, price=[SHOP.Price(euros=1.0)], points=1)
    # Tags are number * 8 + type (https://protobuf.dev/programming-guides/encoding/).
    expected = b"\x0a\x03cup" + b"\x18\x07" + b"\x22\x09\x11" + bytes(6) + b"\xf0\x3f" + b"\x30\x01"
    assert item.SerializeToString() == expected
    assert SHOP.Item.FromString(expected) == item


def test_as_text():
    item = text_format.Parse('name: "cup" colour: RED price { euros: 0 }', SHOP.Item())
    assert (item.name, item.colour) == ("cup", 7)
    assert item.price[0].HasField("euros")
    assert not SHOP.Price().HasField("euros")


def test_of_a_oneof_the_last_one_is_set():
    item = SHOP.Item(free=True)
    item.points = 3
    assert item.WhichOneof("kind") == "points"


def test_two_may_have_the_same_names():
    other = declare("proto3", {"Item": ["optional bytes name = 1"]})
    assert other.Item(name=b"\xff").name == b"\xff"
    assert SHOP.Item(name="cup").name == "cup"
